"""Differences of a response from a golden one that several parts share."""

from musix_runtime.bundle.part import ResponseError
from musix_runtime.schemas import RecommendResponse


def contribution_error(component: str) -> ResponseError:
    """Return the comparison of a component's contributions to the scores of tracks that both responses have."""

    def error(expected: RecommendResponse, found: RecommendResponse, tolerance: float) -> float:
        wanted = {each.id: each.contributions[component] for each in expected.recommendations}
        contributions = {each.id: each.contributions[component] for each in found.recommendations}
        return max((abs(contributions[each] - wanted[each]) for each in contributions.keys() & wanted), default=0.0)

    return error
