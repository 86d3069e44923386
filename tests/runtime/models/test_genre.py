from dataclasses import replace

import numpy as np
import pytest

from musix_runtime import ClassifyRequest, Engine
from musix_runtime.errors import RequestError
from musix_runtime.models.arrays import Keys
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.genre import (
    MAX_BATCH_TEXT,
    MAX_TRACK_TEXT,
    TEXT_ROWS,
    artist_key,
    artist_ngrams,
    ngram_logits,
    text_length,
    title_ngrams,
)
from musix_runtime.models.track_inputs import track_inputs
from musix_runtime.schemas import AudioFeatures
from tests.features import FEATURES


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("The Beatles", "beatles"),
        ("Beyoncé", "beyonce"),
        ("AC/DC", "ac dc"),
        ("Simon &amp; Garfunkel", "simon and garfunkel"),
        ("椎名林檎", "椎名林檎"),
        ("MC 張天賦", "mc 張天賦"),
        ("джаз-оркестр", "джаз оркестр"),
        ("がくぶち", "がくぶち"),
        ("Theory", "theory"),
        ("!!!", ""),
    ],
)
def test_artist_key(name: str, key: str) -> None:
    assert artist_key(name) == key


def test_known_artists_are_averaged_and_unknown_artists_ignored(engine: Engine) -> None:
    first, second = "Simulated Artist 0001", "Simulated Artist 0002"
    texts = engine.genre.text_inputs([[first, second, "nobody"], [first], ["nobody"], []], [""] * 4)
    mean, case = texts["artist"], texts["case"]
    rows = engine.genre.artists.find([artist_key(first), artist_key(second)]) + 1
    letters = engine.genre.gram_weights.shape[1]
    np.testing.assert_allclose(mean[0, :-letters], engine.genre.factors[rows, :-letters].mean(axis=0), rtol=1e-6)
    assert (mean[:2, -letters:] == engine.genre.factors[rows[0], -letters:]).all()  # the first known artist's
    assert case.ravel().tolist() == [1, 1, 0, 0]
    assert (mean[2:, :-letters] == engine.genre.factors[0, :-letters]).all()
    assert (mean[3] == engine.genre.factors[0]).all()


def test_artist_changes_the_genre_confidence(engine: Engine) -> None:
    """The artist raises the confidence of its family. The artists have the families in order."""

    def confidence(artist: str) -> np.ndarray:
        inputs = np.full((1, 15), np.nan, np.float32)
        inputs[0, :12] = list(FEATURES.values())
        return engine.genre.confidence(inputs, [[artist]], [""])[0]

    for family in range(17):
        assert confidence(f"Simulated Artist {family:04d}")[family] > confidence("Nobody")[family]


def test_ngram_logits_are_the_mean_over_names() -> None:
    grams = Keys(np.array(sorted([b" a", b"a ", b" ab ", b"b", b"c"])))
    weights = np.arange(10, dtype=np.float32).reshape(5, 2)  # in the order: " a", " ab ", "a ", "b", "c"
    runs = [" a", " ab", " ab ", "a", "ab", "ab ", "b", "b "]
    assert artist_ngrams("The Ab") == [*runs[:3], "^1", "^words 2", *runs[3:]]
    ab = (weights[0] + weights[1] + weights[3]) / np.sqrt(np.float32(3))

    def said(*names: str) -> np.ndarray:
        return ngram_logits(grams, weights, [[artist_ngrams(name) for name in names]])[0]

    np.testing.assert_allclose(said("The Ab"), ab, rtol=1e-6)
    np.testing.assert_allclose(said("AB", "c", "xyz"), (ab + weights[4]) / 2, rtol=1e-6)
    assert said("xyz", "").tolist() == [0, 0]
    assert said().tolist() == [0, 0]


def test_ngram_logits_of_many_tracks_are_those_of_each(engine: Engine) -> None:
    grams, weights = engine.genre.grams, engine.genre.gram_weights
    tracks = [[artist_ngrams(f"Simulated Artist {i * 7 + j:04d}") for j in range(i % 4)] for i in range(TEXT_ROWS * 2)]
    tracks[5] = [artist_ngrams(""), artist_ngrams("\U0001f3b5"), *tracks[5]]
    together = ngram_logits(grams, weights, iter(tracks))
    assert together.any()
    np.testing.assert_array_equal(together, np.concatenate([ngram_logits(grams, weights, [track]) for track in tracks]))
    assert ngram_logits(grams, weights, []).shape == (0, weights.shape[1])


def test_title_ngrams_have_a_prefix() -> None:
    runs = ["# a", "# a ", "# b", "# b ", "#a", "#a ", "#b", "#b "]
    assert title_ngrams("A-b") == [*runs[:4], "#^-", "#^0", "#^words 1", *runs[4:]]


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("BTS", {"0", "words 1", "upper"}),
        ("deadmau5", {"2", "words 1", "lower"}),
        ("Beyoncé", {"1", "words 1", "é", "LATIN"}),
        ("!!!", {"0", "words 1", "!"}),
        ("Simon &amp; Garfunkel", {"4", "words 3", "&"}),
        ("林", {"0", "words 1", "林", "CJK"}),
        ("La " * 40, {"12", "words 9"}),
        (" ", set()),
    ],
)
def test_artist_ngrams_have_style_tokens(name: str, marks: set[str]) -> None:
    assert {gram.removeprefix("^") for gram in artist_ngrams(name) if gram.startswith("^")} == marks


def test_title_is_used_when_no_artist_is_known(engine: Engine) -> None:
    genre, known, title = engine.genre, ["Simulated Artist 0001"], "Simulated Song 01325"
    texts = genre.text_inputs([known, ["nobody"], [], ["nobody"], ["nobody"]], [title, title, title, "", "林檎"])
    assert texts["case"].ravel().tolist() == [1, 2, 2, 0, 0]
    said = ngram_logits(genre.grams, genre.gram_weights, [[title_ngrams(title)]])[0]
    np.testing.assert_array_equal(texts["title"], [0 * said, said, said, 0 * said, 0 * said])
    assert (texts["artist"][2] == genre.factors[0]).all()


@pytest.mark.parametrize(
    ("text", "length"),
    [("Air", 3), ("", 0), ("Björk", 5), ("Beyonce\u0301", 8), ("\ufdfa" * 10, 180), ("&#xFDFA;" * 10, 180), ("&&", 7)],
)
def test_text_length_is_the_larger_one_before_and_after_normalization(text: str, length: int) -> None:
    assert text_length([text]) == length


@pytest.mark.parametrize("text", ["a" * 750, "\ufdfa" * 43, "&#xFDFA;" * 43, "& " * 300])
def test_texts_of_a_track_have_a_total_limit(engine: Engine, text: str) -> None:
    request = ClassifyRequest(audio_features=AudioFeatures(**FEATURES), artists=[text, text], name=text)
    with pytest.raises(RequestError, match=f"^artists: expected at most {MAX_TRACK_TEXT:,} characters in all artists"):
        engine.classify(request)
    with pytest.raises(RequestError, match=r"^\[1\]\.artists: expected at most"):
        engine.classify_batch([ClassifyRequest(track_id="simulated0000000000001"), request])


def test_texts_of_a_batch_have_a_total_limit(engine: Engine) -> None:
    request = ClassifyRequest(audio_features=AudioFeatures(**FEATURES), name="a" * 1000)
    with pytest.raises(RequestError, match=rf"^\$: expected at most {MAX_BATCH_TEXT:,} characters in all artists and"):
        engine.classify_batch([request] * 201)


TRACK = ClassifyRequest(track_id="simulated0000000000001")
LONG = "\ufdfa" * 600  # of the 2,000 bytes that a catalogue may have; 10,800 characters after normalization


@pytest.mark.parametrize(
    ("artists", "title", "kept", "kept_title"),
    [
        (["Air", "Beck"], "Sexy Boy", ["Air", "Beck"], "Sexy Boy"),
        (["Air", LONG, "Beck"], "Sexy Boy", ["Air"], "Sexy Boy"),
        (["Air"], LONG, [], ""),
        (["a" * 700] * 3, "Sexy Boy", ["a" * 700] * 2, "Sexy Boy"),
        (["a" * 1500], "", ["a" * 1500], ""),
    ],
)
def test_texts_of_a_catalogue_are_cut(
    engine: Engine, artists: list[str], title: str, kept: list[str], kept_title: str
) -> None:
    _, found, titles = track_inputs([TRACK], ["trackId"], _catalog(engine, artists, title))
    assert (found, titles) == ([kept], [kept_title])


def test_texts_of_a_catalogue_count_in_a_batch(engine: Engine) -> None:
    catalog = _catalog(engine, [], "\ufdfa" * 80)
    assert len(track_inputs([TRACK] * 138, [""] * 138, catalog)[0]) == 138
    with pytest.raises(RequestError, match=r"^\$: expected at most 200,000 characters .* found 200,160 in"):
        track_inputs([TRACK] * 1000, [""] * 1000, catalog)


def _catalog(engine: Engine, artists: list[str], title: str) -> Catalog:
    """Return a catalogue in which the texts of `TRACK` are others."""
    (row,) = engine.catalog.rows([TRACK.track_id or ""])
    return replace(engine.catalog, artists={row: ";".join(artists)}, names={row: title})


def test_answer_names_the_evidence_that_it_is_based_on(engine: Engine) -> None:
    known, title = ["Simulated Artist 0001"], "Simulated Song 01325"
    sound = AudioFeatures(**FEATURES)
    requests = {
        ("artist", "audio", "popularity", "duration", "explicit"): ClassifyRequest(track_id="simulated0000000000001"),
        ("artist", "audio"): ClassifyRequest(audio_features=sound, artists=known, name=title),
        ("title", "audio", "popularity"): ClassifyRequest(
            audio_features=sound, artists=["Nobody At All"], name=title, popularity=3
        ),
        ("audio", "duration"): ClassifyRequest(audio_features=AudioFeatures(**FEATURES, duration_ms=60_000)),
        ("audio", "explicit"): ClassifyRequest(audio_features=sound, artists=["Nobody At All"], explicit=False),
    }
    answers = engine.classify_batch(list(requests.values()))
    assert [tuple(answer.evidence) for answer in answers] == list(requests)
    assert engine.classify(requests["artist", "audio"]).evidence == ["artist", "audio"]


def test_duration_in_audio_features_is_used(engine: Engine) -> None:
    beside = ClassifyRequest(audio_features=AudioFeatures(**FEATURES, duration_ms=60_000))
    apart = ClassifyRequest(audio_features=AudioFeatures(**FEATURES), duration_ms=60_000)
    inputs = [track_inputs([item], ["trackId"], engine.catalog)[0] for item in (beside, apart)]
    np.testing.assert_array_equal(*inputs)
