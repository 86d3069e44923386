import hashlib
import re

import numpy as np

from musix_runtime.registry.assignment import assign, fraction
from tests.conftest import ROOT

USERS = [f"listener-{i}" for i in range(20_000)]


def test_fraction_is_the_start_of_the_digest() -> None:
    digest = hashlib.sha256("pepper\0Zoë".encode()).hexdigest()
    assert fraction("pepper", "Zoë") == int(digest[:16], 16) / 2**64
    assert fraction("a", "b\0c") != fraction("a\0b", "d")


def test_fractions_are_equally_distributed_and_independent_between_salts() -> None:
    first, second = (np.array([fraction(salt, user) for user in USERS]) for salt in ("demo/1", "demo/2"))
    assert 0 <= first.min() < first.max() < 1
    assert np.abs(np.histogram(first, 10, (0, 1))[0] / 2000 - 1).max() < 0.1  # 4.7 standard errors
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_a_larger_share_moves_nobody_out_of_treatment() -> None:
    before: set[str] = set()
    for share in (0.05, 0.2, 0.4, 0.99):
        treated = {user for user in USERS if assign("demo/1", user, share) == "treatment"}
        assert before <= treated
        assert abs(len(treated) / len(USERS) - share) < 0.02
        before = treated


def test_published_fractions() -> None:
    table = (ROOT / "docs" / "experiments.md").read_text().rpartition("| salt |")[2]
    vectors = re.findall(r"^\| `(.+)` \| `(.+)` \| (0\.\d+) \|$", table, re.MULTILINE)
    assert len(vectors) == 20
    assert [fraction(salt, user) for salt, user, _ in vectors] == [float(number) for *_, number in vectors]
