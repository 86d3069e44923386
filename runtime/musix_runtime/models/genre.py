"""Genre: from a track's inputs and artists to calibrated confidences over the families."""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

import numpy as np
import onnxruntime as ort

from musix_runtime.bundle.manifest import MAX_ROWS
from musix_runtime.bundle.part import Array, Graph, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.models.arrays import ABSENT, Floats, Keys, Rows
from musix_runtime.models.features import INPUTS
from musix_runtime.models.inference import probabilities
from musix_runtime.schemas import ClassifyResponse

MAX_GRAM = 4
MAX_TRACK_TEXT = 1_500  # characters that the artists and the name of one track have in all: at most some 5 ms of work
MAX_BATCH_TEXT = 200_000  # and those of all tracks that are classified together
LONGEST, WORDIEST = 12, 9  # marks of a text's length, in fours of characters, and of its words go up to these
MARK = "^"  # before what tells how a text is written: no run of letters holds it
TITLE = "#"  # before a gram of a title: the same letters say something else in an artist's name
_ACCENTS = re.compile("[\u0300-\u036f]+")
_PUNCTUATION = re.compile(r"[^\w]+|_+")


def plain(text: str) -> str:
    """Text as it is compared: no case, accents or punctuation. Letters of every script are kept."""
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", html.unescape(text)))
    return _PUNCTUATION.sub(" ", unicodedata.normalize("NFC", bare).lower().replace("&", " and ")).strip()


def artist_key(name: str) -> str:
    """The key under which an artist is known: `plain`, without a leading "the". Empty when nothing is left."""
    return plain(name).removeprefix("the ")


def name_grams(name: str) -> list[str]:
    """The runs of 1 to 4 letters in the words of an artist's key, each once, and the marks of how the name is written.
    A word begins and ends with a blank."""
    return sorted(_runs(artist_key(name)) | _marks(name))


def title_grams(title: str) -> list[str]:
    """The same of a title, each marked as of a title."""
    return [TITLE + gram for gram in sorted(_runs(plain(title)) | _marks(title))]


def _marks(text: str) -> set[str]:
    """What `plain` drops: length, number of words, only capitals or none, every sign, foreign letter and script."""
    written = html.unescape(text).strip()
    if not written:
        return set()
    marks = {f"{min(len(written) // 4, LONGEST)}", f"words {min(len(written.split()), WORDIEST)}"}
    if written.isupper() or written.islower():
        marks.add("upper" if written.isupper() else "lower")
    for letter in set(written):
        if not letter.isascii():
            marks |= {letter, unicodedata.name(letter, "?").split()[0]}
        elif not letter.isalnum() and not letter.isspace():
            marks.add(letter)
    return {MARK + mark for mark in marks}


def _runs(text: str) -> set[str]:
    runs: set[str] = set()
    for word in set(text.split()):
        padded = f" {word} "
        grams = list(padded)
        runs.update(grams)
        for size in range(1, MAX_GRAM):
            grams = list(map(add, grams, padded[size:]))
            runs.update(grams)
    runs.discard(" ")
    return runs


def text_length(texts: Sequence[str]) -> int:
    """Return how many characters the texts have in all, as they are written or as they are compared (`plain`),
    whichever is more: one sign may stand for a whole sentence. At most `MAX_TRACK_TEXT` are normalised for that."""
    written = "".join(texts)
    if len(written) > MAX_TRACK_TEXT or (written.isascii() and "&" not in written):
        return len(written)
    return max(len(written), sum(len(plain(text)) for text in texts))


def spelt(grams: Keys, weights: Floats, texts: Sequence[list[str]]) -> Floats:
    """What letters say: for each text, given as its grams, the sum of the weights (grams, families) of those that are
    known, over the root of their number; the mean of the texts that have any, else 0. Shape (families,)."""
    found = []
    for text in texts:
        places = grams.find(text)
        places = places[places != ABSENT]
        if len(places):
            found.append(weights[places].sum(axis=0) / np.float32(np.sqrt(len(places))))
    return np.mean(found, axis=0, dtype=np.float32) if found else np.zeros(weights.shape[1], np.float32)


@dataclass(frozen=True)
class Genre:
    """The genre graph with the artist factors that feed it. Row 0 of the factors is the unknown artist.

    The last columns, one a family, are the artist's prior; for unknown artists it is read from the letters of their
    names, and the title is read, too.
    """

    session: ort.InferenceSession
    artists: Keys
    factors: Floats
    grams: Keys
    gram_weights: Floats

    def confidence(self, inputs: Floats, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> Floats:
        """Confidence of each family. `inputs` (n, 15), NaN where missing; n lists of names; n titles, empty where there
        is none. Shape (n, families)."""
        feeds = {"features": inputs, **self.text_inputs(artists, titles)}
        return probabilities(self.session, "confidence", feeds, len(inputs), self.gram_weights.shape[1])

    def text_inputs(self, artists: Sequence[Sequence[str]], titles: Sequence[str]) -> dict[str, Floats]:
        """What the graph takes of the texts: `artist` (n, width), the mean factors of each track's known artists with
        the prior of the first; `title` (n, families), what its letters say, read only where no artist is known; `case`
        (n, 1): 1 with a known artist, 2 without but with a title that says something, else 0."""
        keys = [artist_key(name) for names in artists for name in names]
        owners = np.repeat(np.arange(len(artists)), [len(names) for names in artists])
        found: Rows = self.artists.find(keys)
        owners, found = owners[found != ABSENT], found[found != ABSENT]
        count = np.bincount(owners, minlength=len(artists))[:, None]
        total = np.zeros((len(artists), self.factors.shape[1]), np.float32)
        np.add.at(total, owners, self.factors[found + 1])
        case = (count > 0).astype(np.float32)
        mean = np.where(count > 0, total / np.maximum(count, 1), self.factors[0]).astype(np.float32)
        prior = mean[:, -self.gram_weights.shape[1] :]
        tracks, first = np.unique(owners, return_index=True)
        prior[tracks] = self.factors[found[first] + 1, -prior.shape[1] :]
        title = np.zeros((len(artists), prior.shape[1]), np.float32)
        for row in np.flatnonzero(case == 0).tolist():
            if artists[row]:
                prior[row] = spelt(self.grams, self.gram_weights, [name_grams(name) for name in artists[row]])
            if titles[row]:
                title[row] = spelt(self.grams, self.gram_weights, [title_grams(titles[row])])
                case[row] = 2 * title[row].any()
        return {"artist": mean, "title": title, "case": case}


def confidence_error(expected: ClassifyResponse, found: ClassifyResponse, tolerance: float = 0) -> float:
    """Return the largest difference of confidence.

    A family that only one of the responses has among its five counts, too: with the lowest confidence of the other.
    """
    ours, theirs = ({each.name: each.confidence for each in response.genres} for response in (found, expected))
    least = min(theirs.values())
    return max(abs(ours.get(name, least) - theirs.get(name, least)) for name in ours | theirs)


def _load(files: PartFiles) -> Genre:
    return Genre(
        files.session("model"),
        Keys(files.array("artists")),
        files.array("artist_factors"),
        Keys(files.array("grams")),
        files.array("gram_weights"),
    )


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
                "features": (1000, len(INPUTS)),
                "artist": (1000, "genre_width"),
                "title": (1000, "families"),
                "case": (1000, 1),
            },
            {"confidence": "families"},
        )
    },
    counts={"artists": range(MAX_ROWS), "genre_width": range(1, 1024), "grams": range(MAX_ROWS)},
)
