"""Kernels: the inner loops of an answer, in C (`native/`). Arrays are contiguous, and outputs are filled in; each
function raises TypeError for items of another kind, ValueError for lengths that do not fit together."""

import numpy as np
from numpy.typing import NDArray

from musix_runtime.arrays import Floats, Rows, Scores

def find(keys: NDArray[np.bytes_], key: str) -> int:
    """Position of a key among the sorted ones, -1 when there is none."""

def keys_at(keys: NDArray[np.bytes_], rows: Rows) -> list[str]:
    """The keys at some positions."""

def texts(data: NDArray[np.uint8], offsets: NDArray[np.int64], rows: Rows) -> list[str]:
    """Some of the texts that stand end to end in `data`, cut at the offsets."""

class Index:
    """Vectors to search for the greatest products with a query: all of them, or by 8-bit codes those of some
    clusters."""

    def __new__(
        cls,
        matrix: Floats,
        width: int,
        centres: NDArray[np.uint8] | None,
        centre_span: Floats | None,
        clusters: NDArray[np.int64] | None,
        span: Floats | None,
        file: NDArray[np.uint8] | None,
        probes: int,
    ) -> Index:
        """Of `matrix` (n, width). Without a `file` all vectors are compared, else those of the `probes` clusters whose
        centres have the greatest products with the query.

        `centres` are the codes of the centres, one after the other, and 32 bytes more; `clusters` (n, 3) tell where in
        the `file` each one's codes and rows start, and how many they are. A step of a column's code is its span / 255.
        ValueError when the clusters do not hold every row once.
        """

    def nearest(self, query: Floats, out: Rows, products: Floats) -> int:
        """The rows of the greatest products and these, best first, equal ones by row. Says how many; NaN is none."""

class Pool:
    """All that tells which tracks come into question, and what speaks for them."""

    def __new__(
        cls,
        collab: Index,
        content: Index,
        rows: NDArray[np.int32],
        places: NDArray[np.int32],
        tastes: Floats,
        families: NDArray[np.uint32],
        freshness: Floats,
        popularity: Floats,
        popular: NDArray[np.int32],
        weights: Floats,
    ) -> Pool:
        """`rows` are those of the catalogue that collab knows, `places` where each row of the catalogue stands among
        them, -1 for none, the last place being that of all rows beyond; `tastes` (rows, width) of these."""

    def candidates(self, factors: Floats | None, query: Floats | None, excluded: Rows, out: Rows) -> tuple[int, float]:
        """The rows nearest to a listener's factors and to a query, half of `out` each, else popular ones; ascending,
        none of the excluded. How many; and the greatest product with the factors, NaN when there is none."""

    def features(
        self,
        rows: Rows,
        factors: Floats | None,
        query: Floats | None,
        taste: Rows,
        vectors: Floats,
        components: Floats,
        average: float,
        best: float,
        size: int,
    ) -> int:
        """Content vectors (n, width) and components (n, 5) of the rows; the `size` of them whose weighted sums are
        greatest are moved to the front, in order. Says how many."""

    def search(
        self, questions: list[tuple[Floats | None, Floats | None, Rows, Rows, Rows, Floats, Floats, float, int]]
    ) -> list[tuple[int, float]]:
        """Both for several listeners, without Python's lock. A question: factors, query, excluded and taste; rows (n,),
        vectors (n, width) and components (n, 5) to fill in; average and size. The best is that of the candidates, else
        the average. Of each, how many candidates there are, and the seconds that it took to find them."""

def matches(
    rows: Rows, places: NDArray[np.int32], factors: Floats, query: Floats, out: Floats, average: float, best: float
) -> None:
    """How well each row matches a listener: its product with the factors at its place, 0 for the average or less, or
    without a place, and 1 for the best."""

def profile(matrix: Floats, rows: Rows, out: Floats) -> None:
    """The sum of some rows of the matrix (n, width), scaled to length 1. `out` (width,)."""

def apart(vectors: Floats, out: NDArray[np.int32]) -> None:
    """Diversity of each of the vectors (n, width) of length 1 beside each other, in whole tenths. `out` (n, n)."""

def at_each_diversity(components: Floats, out: Floats) -> None:
    """The candidates (n, 5) with a diversity of 0, then with 0.1, and so on to 1. `out` (11, n, 5)."""

def choose(scores: Floats, vectors: Floats, components: Floats, picks: Rows, chosen: Floats) -> None:
    """Pick candidates (n, 5) one at a time, each the best given those before it, from their scores (11, n) at each
    diversity; `vectors` (n, width) of length 1. The picks, best first, and their components when they were picked."""

def coalitions(components: Floats, out: Floats) -> None:
    """Each candidate (n, 5) as each coalition of its components has it: component i is there where bit i of the
    coalition's number is set, else 0. `out` (n, 32, 5)."""

def explain(scores: Floats, base: Scores, values: Scores) -> None:
    """Base (n,) and Shapley values (n, 5) from the scores in all 32 coalitions (n, 32), exact to the millionth."""

def tell(
    base: Scores, values: Scores, names: tuple[str, ...], words: tuple[str, ...], otherwise: str
) -> list[tuple[float, str, dict[str, float]]]:
    """Of each candidate the score, which is the sum of its base and five values (n, 5), the reason and these numbers by
    six names. The reason is the share of each positive value in their sum, in percents that add up to 100, the
    largest first, by five words; or `otherwise` when there is none."""
