"""Genre: calibrated confidences of the genre families, from the inputs, artists and title of a track."""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import add
from typing import Any

import numpy as np
import onnxruntime as ort

from musix_runtime.bundle.manifest import MAX_ROWS
from musix_runtime.bundle.part import Array, Graph, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.models.arrays import ABSENT, Floats, Keys, RaggedRows, Rows
from musix_runtime.models.features import INPUT_NAMES, INPUTS, probes
from musix_runtime.models.inference import probabilities
from musix_runtime.schemas import ClassifyResponse

MAX_NGRAM = 4
MAX_TRACK_TEXT = 1_500  # characters of the artists and the name of one track, which take up to about 5 ms
TEXT_ROWS = 20  # tracks whose n-grams are looked up at a time, which limits the memory that long texts take
RUN_ROWS = 250  # tracks of one run of the graph, which limits its memory
MAX_BATCH_TEXT = 200_000  # characters of all tracks of a batch
MAX_LENGTH_BUCKET, MAX_WORDS = 12, 9  # style tokens count lengths (in units of 4 characters) and words up to these
STYLE_PREFIX = "^"  # of a style token: no n-gram has it
TITLE_PREFIX = "#"  # of an n-gram of a title: the same letters have another weight in an artist's name
UNKNOWN_CASE, KNOWN_CASE, TITLED_CASE = 0, 1, 2  # of the graph's input `case`: a known artist; none, but a title
OPTIONAL_EVIDENCE = {"popularity": "popularity", "duration": "duration_ms", "explicit": "explicit"}  # inputs, by name
_ACCENTS = re.compile("[\u0300-\u036f]+")
_PUNCTUATION = re.compile(r"[^\w]+|_+")


def normalize(text: str) -> str:
    """Return text without case, accents and punctuation. Letters of all scripts are kept."""
    without_accents = _ACCENTS.sub("", unicodedata.normalize("NFKD", html.unescape(text)))
    return _PUNCTUATION.sub(" ", unicodedata.normalize("NFC", without_accents).lower().replace("&", " and ")).strip()


def artist_key(name: str) -> str:
    """Return the key of an artist: the normalized name without a leading "the". It may be empty."""
    return normalize(name).removeprefix("the ")


def artist_ngrams(name: str) -> list[str]:
    """Return the sorted character n-grams (1 to 4) of an artist's key, and the style tokens of the name."""
    return sorted(_char_ngrams(artist_key(name)) | _style_tokens(name))


def title_ngrams(title: str) -> list[str]:
    """Return the sorted character n-grams (1 to 4) and style tokens of a title, all with `TITLE_PREFIX`."""
    return [TITLE_PREFIX + ngram for ngram in sorted(_char_ngrams(normalize(title)) | _style_tokens(title))]


def _style_tokens(text: str) -> set[str]:
    """Return tokens of what `normalize` removes: length, words, case, punctuation, non-ASCII letters and scripts."""
    written = html.unescape(text).strip()
    if not written:
        return set()
    tokens = {f"{min(len(written) // 4, MAX_LENGTH_BUCKET)}", f"words {min(len(written.split()), MAX_WORDS)}"}
    if written.isupper() or written.islower():
        tokens.add("upper" if written.isupper() else "lower")
    for letter in set(written):
        if not letter.isascii():
            tokens |= {letter, unicodedata.name(letter, "?").split()[0]}
        elif not letter.isalnum() and not letter.isspace():
            tokens.add(letter)
    return {STYLE_PREFIX + token for token in tokens}


def _char_ngrams(text: str) -> set[str]:
    """Return the n-grams of each word, which has a space before and after it."""
    ngrams: set[str] = set()
    for word in set(text.split()):
        padded = f" {word} "
        current = list(padded)
        ngrams.update(current)
        for size in range(1, MAX_NGRAM):
            current = list(map(add, current, padded[size:]))
            ngrams.update(current)
    ngrams.discard(" ")
    return ngrams


def text_length(texts: Sequence[str]) -> int:
    """Return the total number of characters of the texts, before or after `normalize`, whichever is larger.

    Normalization can expand one character to a sentence. Texts with more than `MAX_TRACK_TEXT` characters are not
    normalized.
    """
    written = "".join(texts)
    if len(written) > MAX_TRACK_TEXT or (written.isascii() and "&" not in written):
        return len(written)
    return max(len(written), sum(len(normalize(text)) for text in texts))


def ngram_logits(known: Keys, weights: Floats, tracks: Iterable[list[list[str]]]) -> Floats:
    """Return the mean logits of the texts of each track, each a list of n-grams. Shape (tracks, families).

    The logits of a text are the sum of the `weights` (n-grams, families) of its known n-grams, divided by the square
    root of their number. Texts without known n-grams are left out; without any text the logits are 0. Only
    `TEXT_ROWS` tracks are taken from an iterator at a time.
    """
    iterator, parts = iter(tracks), [np.zeros((0, weights.shape[1]), np.float32)]
    while some := list(islice(iterator, TEXT_ROWS)):
        texts = [ngrams for texts in some for ngrams in texts]
        ngrams = RaggedRows(known.find(list(chain.from_iterable(texts))), _lengths(texts)).present()
        logits = ngrams.sums(weights[ngrams.values]) / np.sqrt(_divisors(ngrams.sizes))
        read = RaggedRows(np.where(ngrams.sizes > 0, np.arange(len(texts)), ABSENT), _lengths(some)).present()
        parts.append(read.sums(logits[read.values]) / _divisors(read.sizes))
    return np.concatenate(parts)


def _lengths(parts: Sequence[Sequence[Any]]) -> Rows:
    return np.array([len(part) for part in parts], np.int64)


def _divisors(sizes: Rows) -> Floats:
    return np.maximum(sizes, 1).astype(np.float32)[:, None]


@dataclass(frozen=True)
class Genre:
    """The genre graph, and the artist factors and n-gram weights that its inputs are made of.

    Row 0 of the factors is the unknown artist. The last columns, one for each family, are the prior of the artist. The
    prior of an unknown artist is computed from the n-grams of the name, and the n-grams of the title are used too.
    """

    session: ort.InferenceSession
    artists: Keys
    factors: Floats
    grams: Keys
    gram_weights: Floats

    def confidence(self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> Floats:
        """Return the confidence of each family. Shape (n, families).

        `inputs` (n, 15) has NaN for missing values. A missing title is empty.
        """
        return self.predict(inputs, artists, titles)[0]

    def predict(
        self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]
    ) -> tuple[Floats, list[list[str]]]:
        """Return the confidence of each family, shape (n, families), and the evidence that each is based on."""
        texts = self.text_inputs(artists, titles)
        return self.run({"features": inputs, **texts}), evidence(inputs, texts["case"][:, 0])

    def run(self, feeds: dict[str, Floats]) -> Floats:
        """Return the output of the graph for its inputs. Shape (n, families)."""
        width = self.gram_weights.shape[1]
        outputs = []
        for start in range(0, len(feeds["case"]), RUN_ROWS):
            some = {name: values[start : start + RUN_ROWS] for name, values in feeds.items()}
            outputs.append(probabilities(self.session, "confidence", some, len(some["case"]), width))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def text_inputs(self, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> dict[str, Floats]:
        """Return the inputs of the graph that depend on artists and titles.

        `artist` (n, width): the mean factors of the known artists of a track, with the prior of the first one.
        `title` (n, families): the logits of the title, only if no artist is known. `case` (n, 1): 1 with a known
        artist, 2 without one but with a title that has known n-grams, else 0.
        """
        keys = [artist_key(name) for names in artists for name in names]
        known = RaggedRows(self.artists.find(keys), _lengths(artists)).present()
        total, count = known.sums(self.factors[known.values + 1]), known.sizes[:, None]
        mean = np.where(count > 0, total / _divisors(known.sizes), self.factors[0])
        prior = mean[:, -self.gram_weights.shape[1] :]
        tracks, first = known.starts
        prior[tracks] = self.factors[known.values[first] + 1, -prior.shape[1] :]
        title = np.zeros_like(prior)
        case = KNOWN_CASE * (count > 0).astype(np.float32)
        unknown = np.flatnonzero(count == 0).tolist()
        if unknown:
            names_of = ([artist_ngrams(name) for name in artists[row]] for row in unknown)
            title_of = ([title_ngrams(titles[row])] for row in unknown)
            logits = ngram_logits(self.grams, self.gram_weights, chain(names_of, title_of))
            named = [bool(artists[row]) for row in unknown]
            prior[np.array(unknown)[named]] = logits[: len(unknown)][named]
            title[unknown] = logits[len(unknown) :]
            case[unknown] = TITLED_CASE * title[unknown].any(axis=1, keepdims=True)
        return {"artist": mean, "title": title, "case": case}


def evidence(inputs: Floats, case: Floats) -> list[list[str]]:
    """Return what each track's confidence is based on: known artists or the title, by `case` (n,), and the inputs
    (n, 15) that are not missing."""
    columns = {"artist": case == KNOWN_CASE, "title": case == TITLED_CASE, "audio": ~np.isnan(inputs[:, 0])}
    columns |= {name: ~np.isnan(inputs[:, INPUT_NAMES.index(column)]) for name, column in OPTIONAL_EVIDENCE.items()}
    rows = np.column_stack(list(columns.values())).tolist()
    return [[name for name, present in zip(columns, row, strict=True) if present] for row in rows]


def confidence_error(expected: ClassifyResponse, found: ClassifyResponse, tolerance: float = 0) -> float:
    """Return the largest difference of confidence.

    A family that is missing in one response counts with the lowest confidence of the expected response.
    """
    golden, actual = ({genre.name: genre.confidence for genre in response.genres} for response in (expected, found))
    lowest = min(golden.values())
    return max(abs(actual.get(name, lowest) - golden.get(name, lowest)) for name in actual | golden)


def _load(files: PartFiles) -> Genre:
    genre = Genre(
        files.session("model"),
        Keys(files.array("artists")),
        files.array("artist_factors"),
        Keys(files.array("grams")),
        files.array("gram_weights"),
    )
    files.check_outputs("model", lambda: genre.run(_probes(genre)))
    return genre


def _probes(genre: Genre) -> dict[str, Floats]:
    """Return inputs of the graph on which it is tried: each probe of the features in each case, with the kinds of
    artist and title by turns."""
    features, families = probes(INPUTS), genre.gram_weights.shape[1]
    named = genre.factors[0].copy()
    named[-families:] = 1  # an unknown artist whose name has known n-grams
    artists = np.stack([genre.factors[0], named, genre.factors[-1]])
    titles = np.stack([np.zeros(families, np.float32), np.ones(families, np.float32)])
    cases = np.array([UNKNOWN_CASE, KNOWN_CASE, TITLED_CASE], np.float32)
    turn = np.add.outer(np.arange(len(cases)), np.arange(len(features))).ravel()
    return {
        "features": np.tile(features, (len(cases), 1)),
        "artist": artists[turn % len(artists)],
        "title": titles[turn % len(titles)],
        "case": np.repeat(cases, len(features))[:, None],
    }


def _validate(checks: Checks) -> None:
    checks.sorted_keys("artists")
    checks.sorted_keys("grams")
    checks.factors("artist_factors", "gram_weights")


PART = Part(
    name="genre",
    load=_load,
    validate=_validate,
    classify_error=confidence_error,
    arrays={
        "artists.npy": Array("S", ("artists",)),
        "artist_factors.npy": Array("<f4", ("artists+1", "genre_width")),
        "grams.npy": Array("S", ("grams",)),
        "gram_weights.npy": Array("<f4", ("grams", "families")),
    },
    graphs={
        "model.onnx": Graph(
            {
                "features": (RUN_ROWS, len(INPUTS)),
                "artist": (RUN_ROWS, "genre_width"),
                "title": (RUN_ROWS, "families"),
                "case": (RUN_ROWS, 1),
            },
            {"confidence": "families"},
            trees=True,
        )
    },
    counts={"artists": range(MAX_ROWS), "genre_width": range(1, 1024), "grams": range(MAX_ROWS)},
)
