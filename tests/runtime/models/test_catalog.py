import numpy as np
import pytest

from musix_runtime import ClassifyRequest, Engine, RecommendRequest, SimilarRequest
from musix_runtime.models.catalog import strip_uri

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
def test_links_and_uris_are_accepted_as_track_ids(engine: Engine, link: str) -> None:
    assert strip_uri(link) == TRACK
    assert engine.similar(SimilarRequest(track_id=link)) == engine.similar(SimilarRequest(track_id=TRACK))
    assert engine.classify(ClassifyRequest(track_id=link)).genres == engine.classify(ClassifyRequest(TRACK)).genres
    for field in ("current_track_id", "history", "exclude_ids"):
        linked, plain = (
            engine.recommend(RecommendRequest(user_id="x", limit=50, **{field: item if field[0] == "c" else [item]}))
            for item in (link, TRACK)
        )
        assert linked.recommendations == plain.recommendations
        assert TRACK not in [item.id for item in linked.recommendations]


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
def test_other_texts_are_unchanged_ids(text: str) -> None:
    assert strip_uri(text) == text


def test_recording_is_found_by_each_of_its_ids(engine: Engine) -> None:
    catalog = engine.catalog
    every = np.arange(len(catalog))
    ids = [item.decode() for item in catalog.ids.sorted.tolist()]
    rows = catalog.id_rows.tolist()
    assert len(ids) > len(catalog)  # some have a second id
    for start in range(0, len(ids), 60):
        few = ids[start : start + 60]
        assert np.flatnonzero(catalog.has_any_id(every, set(few))).tolist() == sorted(set(rows[start : start + 60]))
    assert not catalog.has_any_id(every, {"nobody", ""}).any()


def test_many_excluded_ids_match_all_ids_of_a_recording(engine: Engine) -> None:
    ids = [item.decode() for item in engine.catalog.ids.sorted.tolist()]
    kept = set(engine.catalog.id_rows[:40].tolist())
    out = [
        f"spotify:track:{item}"
        for item, row in zip(ids, engine.catalog.id_rows.tolist(), strict=True)
        if row not in kept
    ]
    answer = engine.recommend(RecommendRequest(user_id="listener-001", limit=50, exclude_ids=out[:10_000]))
    result = engine.catalog.rows([item.id for item in answer.recommendations]).tolist()
    heard = engine.retriever.collab.history(engine.retriever.collab.listeners.find_one("listener-001")).tolist()
    assert set(result) == kept - set(heard)
