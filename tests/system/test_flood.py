"""The attacks of `python -m tests.flood`, each for a second: others are answered, memory is bounded, nothing leaks."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.flood.__main__ import ATTACKS, SETTINGS
from tests.flood.attacks import Attack
from tests.flood.measure import measure
from tests.system.servers import serving, worker_pid

SECONDS = 0.7
MEMORY = 64 * 2**20  # bytes that an attack may cost
HELD_MS = 50  # that one pattern may hold others longer
NOISE = 10  # times that, on a machine of which others take a part
REFUSALS = {  # what must be counted at least
    "idle connections": {"evicted", "head_time"},
    "slow head": {"head_time"},
    "huge head": {"head_size"},
    "many headers": {"head_size"},
    "endless URL": {"url_size"},
    "unfinished bodies": {"buffered"},
    "tiny chunks": {"invalid"},
    "pipelining": {"pipelining"},
}


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[tuple[int, int]]:
    """Port and process id."""
    with serving(demo_bundle, **{**SETTINGS, "MUSIX_KEEP_ALIVE_S": "1"}) as (url, process):
        yield int(url.rpartition(":")[2]), worker_pid(process)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.name)
def test_an_attack_harms_nobody_else(server: tuple[int, int], attack: Attack) -> None:
    result = measure(attack, *server, SECONDS)
    told = "\n".join(result.lines())
    assert result.closed, told
    assert result.growth < MEMORY, told
    assert result.statuses.keys() <= {200, 503}, told
    assert median(result.waits_ms) < HELD_MS * NOISE, told
    assert REFUSALS.get(attack.name, set()) <= result.refused.keys(), told
