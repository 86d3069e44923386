"""Genre: from a track's inputs and artists to calibrated confidences over the families."""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from musix_runtime.arrays import ABSENT, Floats, Keys, Rows

_ACCENTS = re.compile("[\u0300-\u036f]+")
_PUNCTUATION = re.compile(r"[^\w]+|_+")


def plain(text: str) -> str:
    """Text as it is compared: no case, accents or punctuation. Letters of every script are kept."""
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", html.unescape(text)))
    return _PUNCTUATION.sub(" ", unicodedata.normalize("NFC", bare).lower().replace("&", " and ")).strip()


def artist_key(name: str) -> str:
    """The key under which an artist is known: `plain`, without a leading "the". Empty when nothing is left."""
    return plain(name).removeprefix("the ")


@dataclass(frozen=True)
class Genre:
    """The genre graph with the artist factors that feed it. Row 0 of the factors is the unknown artist."""

    session: ort.InferenceSession
    artists: Keys
    factors: Floats

    def confidence(self, inputs: Floats, artists: Sequence[Sequence[str]]) -> Floats:
        """Confidence of each family. `inputs` (n, 15), NaN where missing; n lists of names. Shape (n, families)."""
        artist, known = self.artist_inputs(artists)
        (confidence,) = self.session.run(None, {"features": inputs, "artist": artist, "known": known})
        return np.asarray(confidence)

    def artist_inputs(self, artists: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Mean factors of each track's known artists, and whether there are any. Shapes (n, 51) and (n, 1)."""
        keys = [artist_key(name) for names in artists for name in names]
        owners = np.repeat(np.arange(len(artists)), [len(names) for names in artists])
        found: Rows = self.artists.find(keys)
        owners, found = owners[found != ABSENT], found[found != ABSENT]
        count = np.bincount(owners, minlength=len(artists))[:, None]
        total = np.zeros((len(artists), self.factors.shape[1]), np.float32)
        np.add.at(total, owners, self.factors[found + 1])
        known = (count > 0).astype(np.float32)
        mean = np.where(count > 0, total / np.maximum(count, 1), self.factors[0]).astype(np.float32)
        return mean, known
