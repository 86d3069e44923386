"""Golden cases: requests with the responses of the native models. A bundle has them, and they are replayed at open."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from musix_runtime.bundle.part import Layout, Part
from musix_runtime.errors import GoldenError, LayoutError, refusing, shorten
from musix_runtime.schemas import ClassifyRequest, ClassifyResponse, RecommendRequest, RecommendResponse

OPENING_CASES = 4  # cases of each kind that are replayed when a bundle is opened
MIN_CASES = 64  # of each kind
MAX_CASES = 1024
MAX_TOLERANCE = 1e-3
REPLAY_BATCH = 16  # requests that are replayed together


class ClassifyCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request and the native models' response."""

    request: ClassifyRequest
    expected: ClassifyResponse


class RecommendCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request and the native models' response."""

    request: RecommendRequest
    expected: RecommendResponse


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`golden/cases.json`: the cases, and for each part the largest difference that still passes."""

    tolerance: dict[str, float]
    classify: list[ClassifyCase]
    recommend: list[RecommendCase]


C = TypeVar("C", ClassifyCase, RecommendCase)
R = TypeVar("R", ClassifyResponse, RecommendResponse)


class Replayable(Protocol):
    """An engine that answers golden cases."""

    @property
    def parts(self) -> Sequence[Part[Any]]: ...

    def classify_batch(self, requests: Sequence[ClassifyRequest]) -> list[ClassifyResponse]: ...

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse]: ...


def check(golden: Golden, layout: Layout, place: object) -> None:
    """Raise LayoutError unless there are `MIN_CASES` to `MAX_CASES` of each kind, and each part that golden cases
    compare has a tolerance above 0 and up to `MAX_TOLERANCE`."""
    counts = len(golden.classify), len(golden.recommend)
    if not MIN_CASES <= min(counts) <= max(counts) <= MAX_CASES:
        raise LayoutError(
            f"{place}: golden cases: expected {MIN_CASES} to {MAX_CASES:,} of each kind, found {counts[0]:,} and "
            f"{counts[1]:,}"
        )
    within = {part for part, tolerance in golden.tolerance.items() if 0 < tolerance <= MAX_TOLERANCE}
    if within != set(golden.tolerance) or within != set(layout.golden_parts):
        expected = f"a tolerance of at most {MAX_TOLERANCE} for each of {', '.join(layout.golden_parts)}"
        raise LayoutError(f"{place}: golden cases: expected {expected}, found {shorten(str(golden.tolerance))}")


def replay(engine: Replayable, golden: Golden, limit: int | None = None) -> dict[str, float]:
    """Replay the first `limit` cases of each kind (all by default). Return the largest difference of each part.

    Raises GoldenError for a difference above its tolerance, BundleError for an invalid request.
    """
    worst = {part.name: 0.0 for part in engine.parts if part.has_golden_cases}
    for number, known, found in _answered("classify", golden.classify[:limit], engine.classify_batch):
        with refusing(f"golden classify case {number}"):
            for part in engine.parts:
                if part.classify_error:
                    error = part.classify_error(known.expected, found, golden.tolerance[part.name])
                    _record(f"classify case {number}", part.name, error, golden, worst)
    for number, case, response in _answered("recommend", golden.recommend[:limit], engine.recommend_batch):
        with refusing(f"golden recommend case {number}"):
            for part in reversed(engine.parts):  # the ranker first: contributions can only be compared in equal lists
                if part.recommend_error:
                    error = part.recommend_error(case.expected, response, golden.tolerance[part.name])
                    _record(f"recommend case {number}", part.name, error, golden, worst)
    return worst


def _answered(kind: str, cases: Sequence[C], answer: Callable[[list[Any]], list[R]]) -> Iterator[tuple[int, C, R]]:
    """Yield number, case and response of each case; `REPLAY_BATCH` requests are answered at a time."""
    for start in range(0, len(cases), REPLAY_BATCH):
        batch = cases[start : start + REPLAY_BATCH]
        with refusing(f"golden {kind} cases {start} to {start + len(batch) - 1}"):
            responses = answer([case.request for case in batch])
        yield from zip(range(start, start + len(batch)), batch, responses, strict=True)


def _record(case: str, part: str, error: float, golden: Golden, worst: dict[str, float]) -> None:
    worst[part] = max(worst[part], error)
    if not error <= golden.tolerance[part]:
        expected = f"a difference of at most {golden.tolerance[part]:g} from the native models"
        raise GoldenError(f"golden {case}: {part}: expected {expected}, found {error:g}")
