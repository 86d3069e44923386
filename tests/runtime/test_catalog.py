import numpy as np

from musix_runtime import Engine, RecommendRequest


def test_a_recording_is_named_by_each_of_its_ids(engine: Engine) -> None:
    catalog = engine.catalog
    every = np.arange(len(catalog))
    ids = [each.decode() for each in catalog.ids.sorted.tolist()]
    rows = catalog.id_rows.tolist()
    assert len(ids) > len(catalog)  # some have a second id
    for start in range(0, len(ids), 60):
        few = ids[start : start + 60]
        assert np.flatnonzero(catalog.has_any_id(every, set(few))).tolist() == sorted(set(rows[start : start + 60]))
    assert not catalog.has_any_id(every, {"nobody", ""}).any()


def test_thousands_of_excluded_ids_are_kept_out_under_any_of_their_ids(engine: Engine) -> None:
    ids = [each.decode() for each in engine.catalog.ids.sorted.tolist()]
    kept = set(engine.catalog.id_rows[:40].tolist())
    out = [
        f"spotify:track:{each}"
        for each, row in zip(ids, engine.catalog.id_rows.tolist(), strict=True)
        if row not in kept
    ]
    answer = engine.recommend(RecommendRequest(user_id="listener-001", limit=50, exclude_ids=out[:10_000]))
    found = engine.catalog.rows([each.id for each in answer.recommendations]).tolist()
    heard = engine.retriever.collab.history(engine.retriever.collab.listeners.find_one("listener-001")).tolist()
    assert set(found) == kept - set(heard)
