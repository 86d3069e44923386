import numpy as np
import pytest

from musix_runtime import ClassifyRequest, Engine, RecommendRequest, SimilarRequest
from musix_runtime.models.catalog import bare

TRACK = "simulated0000000000001"
LINKS = [
    f"spotify:track:{TRACK}",
    f"https://open.spotify.com/track/{TRACK}",
    f"https://open.spotify.com/track/{TRACK}?si=0123456789abcdef&utm_source=copy-link",
    f"https://open.spotify.com/intl-de/track/{TRACK}?si=0123456789abcdef",
    f"https://open.spotify.com/intl-pt-br/track/{TRACK}/",
    f"https://open.spotify.com/embed/track/{TRACK}#x",
    f"http://open.spotify.com/track/{TRACK}",
    f"open.spotify.com/track/{TRACK}",
    f"HTTPS://Open.Spotify.com/track/{TRACK}",
]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_or_uri_may_stand_wherever_an_id_may(engine: Engine, link: str) -> None:
    assert bare(link) == TRACK
    assert engine.similar(SimilarRequest(track_id=link)) == engine.similar(SimilarRequest(track_id=TRACK))
    assert engine.classify(ClassifyRequest(track_id=link)).genres == engine.classify(ClassifyRequest(TRACK)).genres
    for field in ("current_track_id", "history", "exclude_ids"):
        linked, plain = (
            engine.recommend(RecommendRequest(user_id="x", limit=50, **{field: each if field[0] == "c" else [each]}))
            for each in (link, TRACK)
        )
        assert linked.recommendations == plain.recommendations
        assert TRACK not in [each.id for each in linked.recommendations]


@pytest.mark.parametrize(
    "text",
    [
        TRACK,
        "",
        "http",
        "spotify:album:x",
        "spotify:track:",
        "spotify:track:a:b",
        "https://open.spotify.com/album/x",
        "https://open.spotify.com/track/",
        "https://example.com/track/x",
        f"see https://open.spotify.com/track/{TRACK}",
    ],
)
def test_any_other_text_is_an_id_as_it_stands(text: str) -> None:
    assert bare(text) == text


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
