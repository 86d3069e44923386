"""Answers do not depend on the other requests in a batch."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from musix_runtime import Engine, Filters, RecommendRequest
from musix_runtime.timing import RECOMMEND_STAGES, StageTimer

FILTERS = (Filters(genres=["jazz-soul", "rock"]), Filters(explicit=False), Filters(["metal"], ["sad"], True))


def drawn(engine: Engine, count: int) -> list[RecommendRequest]:
    """Return requests of all kinds of users, some much larger than others."""
    rng = np.random.default_rng(11)
    ids = [key.decode() for key in engine.catalog.ids.sorted.tolist()]

    def some(size: int) -> list[str]:
        return [ids[i] for i in rng.integers(0, len(ids), size)]

    return [
        RecommendRequest(
            user_id=f"listener-{rng.integers(600):03d}" if rng.random() < 0.7 else "nobody",
            current_track_id=some(1)[0] if rng.random() < 0.4 else None,
            limit=int(rng.choice([1, 10, 10, 10, 40, 100])),
            exclude_ids=some(int(rng.choice([0, 0, 0, 5, 60, 900, 2900]))),
            time_range=str(rng.choice(["short_term", "medium_term", "long_term"])),
            history=some(int(rng.choice([1, 20]))) if rng.random() < 0.4 else None,
            filters=FILTERS[rng.integers(len(FILTERS))] if rng.random() < 0.4 else None,
        )
        for _ in range(count)
    ]


def encoded(engine: Engine, requests: list[RecommendRequest]) -> list[bytes]:
    answers = engine.recommend_batch(requests)
    return [msgspec.json.encode(msgspec.structs.replace(item, generated_at="")) for item in answers]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_answers_do_not_depend_on_the_batch(kind: str, engine: Engine, ivf_bundle: Path) -> None:
    asked = engine if kind == "flat" else Engine.open(ivf_bundle)
    assert {item.kind for item in asked.bundle.manifest.indexes.values()} == {kind}
    requests = drawn(asked, 160)
    alone = [encoded(asked, [item])[0] for item in requests]
    for size in (2, 3, 9, 16, 160):
        order = np.random.default_rng(size).permutation(len(requests)).tolist()
        for start in range(0, len(order), size):
            few = order[start : start + size]
            result = encoded(asked, [requests[i] for i in few])
            assert result == [alone[i] for i in few]


def test_batch_timers_have_all_stages(engine: Engine) -> None:
    stages = [StageTimer(), StageTimer()]
    engine.recommend_batch([RecommendRequest(user_id="nobody"), RecommendRequest(user_id="listener-001")], stages)
    assert [tuple(item.seconds) for item in stages] == [RECOMMEND_STAGES, RECOMMEND_STAGES]
    assert engine.recommend_batch([]) == []
