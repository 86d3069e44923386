"""The attacks of `python -m tests.flood`, for a second each: other clients are served, memory is bounded, no leaks."""

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
    "too large bodies": {"body_size"},
    "tiny chunks": {"chunks"},
    "pipelining": {"pipelining"},
}


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[tuple[int, int]]:
    """The port and process id of a server."""
    # A body may take longer than it takes to send all bodies on a slow machine: else none would fill the buffers.
    settings = {**SETTINGS, "MUSIX_KEEP_ALIVE_S": "1", "MUSIX_BODY_TIMEOUT_S": "4"}
    with serving(demo_bundle, **settings) as (url, process):
        yield int(url.rpartition(":")[2]), worker_pid(process)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda item: item.name)
def test_attack_does_not_affect_other_clients(server: tuple[int, int], attack: Attack) -> None:
    result = measure(attack, *server, SECONDS)
    output = "\n".join(result.lines())
    assert result.closed, output
    assert result.growth < MEMORY, output
    assert result.statuses.keys() <= {200, 503}, output
    assert median(result.waits_ms) < HELD_MS * NOISE, output
    assert REFUSALS.get(attack.name, set()) <= result.refused.keys(), output
