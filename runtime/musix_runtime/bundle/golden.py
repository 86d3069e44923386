"""Golden cases: questions with the native models' answers, kept in every bundle and asked again where it is opened."""

from typing import Any

import msgspec

from musix_runtime.bundle.manifest import PARTS
from musix_runtime.errors import GoldenError, LayoutError, refusing
from musix_runtime.schemas import ClassifyRequest, ClassifyResponse, RecommendRequest, RecommendResponse

FEW = 4  # cases of each kind that are replayed whenever a bundle is opened
MIN_CASES = 64  # of each kind
MAX_TOLERANCE = 1e-3


class ClassifyCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question and its answer by the native models."""

    request: ClassifyRequest
    expected: ClassifyResponse


class RecommendCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question and its answer by the native models."""

    request: RecommendRequest
    expected: RecommendResponse


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`golden/cases.json`: the cases, and for each part the largest difference that still passes."""

    tolerance: dict[str, float]
    classify: list[ClassifyCase]
    recommend: list[RecommendCase]


def check(golden: Golden, place: object) -> None:
    """Raise LayoutError unless there are enough cases, and every part has a tolerance that tells right from wrong."""
    counts = len(golden.classify), len(golden.recommend)
    if min(counts) < MIN_CASES:
        raise LayoutError(f"{place}: golden cases: expected at least {MIN_CASES} of each kind, found {counts}")
    within = [part for part, tolerance in golden.tolerance.items() if 0 < tolerance <= MAX_TOLERANCE]
    if set(within) != set(golden.tolerance) or set(within) != set(PARTS):
        expected = f"a tolerance of at most {MAX_TOLERANCE} for each of {', '.join(PARTS)}"
        raise LayoutError(f"{place}: golden cases: expected {expected}, found {golden.tolerance}")


def replay(engine: Any, golden: Golden, limit: int | None = None) -> dict[str, float]:
    """Ask the first `limit` cases of each kind (all by default); the largest difference of each part.

    Raises GoldenError that names the case, what was expected and what was found; BundleError for a case that is none.
    """
    worst = dict.fromkeys(PARTS, 0.0)
    for number, case in enumerate(golden.classify[:limit]):
        with refusing(f"golden classify case {number}"):
            found = engine.classify(case.request)
            errors = {"genre": genre_error(case.expected, found), "mood": mood_error(case.expected, found)}
            _note(f"classify case {number}", errors, golden.tolerance, worst)
    for number, asked in enumerate(golden.recommend[:limit]):
        with refusing(f"golden recommend case {number}"):
            errors = _recommend_errors(asked.expected, engine.recommend(asked.request), golden.tolerance["ranker"])
            _note(f"recommend case {number}", errors, golden.tolerance, worst)
    return worst


def _note(name: str, errors: dict[str, float], tolerance: dict[str, float], worst: dict[str, float]) -> None:
    for part, error in errors.items():
        worst[part] = max(worst[part], error)
        if not error <= tolerance[part]:
            expected = f"the native models' answer to within {tolerance[part]:g}"
            raise GoldenError(f"golden {name}: {part}: expected {expected}, found it off by {error:g}")


def genre_error(expected: ClassifyResponse, found: ClassifyResponse) -> float:
    """Largest difference of confidence, also of a family that only one of the answers has among its five."""
    ours, theirs = ({each.name: each.confidence for each in answer.genres} for answer in (found, expected))
    least = min(theirs.values())
    return max(abs(ours.get(name, least) - theirs.get(name, least)) for name in ours | theirs)


def mood_error(expected: ClassifyResponse, found: ClassifyResponse) -> float:
    """Largest difference of probability."""
    ours, theirs = found.mood.probabilities, expected.mood.probabilities
    return max(abs(ours[mood] - theirs[mood]) for mood in theirs)


def _recommend_errors(expected: RecommendResponse, found: RecommendResponse, tolerance: float) -> dict[str, float]:
    """Largest difference of score (ranker) and of the shares of collab and content; infinite for another list.

    Neighbours whose scores are as good as equal may change places.
    """
    ours, theirs = found.recommendations, expected.recommendations
    if len(ours) != len(theirs) or found.source != expected.source:
        return {"ranker": float("inf")}
    by_id = {each.id: each for each in theirs}
    errors = {"ranker": 0.0, "collab": 0.0, "content": 0.0}
    for mine, wanted in zip(ours, theirs, strict=True):
        same = by_id.get(mine.id)
        if same is None and mine.score - theirs[-1].score > tolerance:
            return {"ranker": float("inf")}
        errors["ranker"] = max(errors["ranker"], abs(mine.score - wanted.score))
        for part in ("collab", "content"):
            if same is not None:
                errors[part] = max(errors[part], abs(mine.contributions[part] - same.contributions[part]))
    return errors
