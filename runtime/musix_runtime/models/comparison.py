"""Comparison of a response with a golden one, for several parts."""

from musix_runtime.bundle.part import ResponseError
from musix_runtime.schemas import RecommendResponse


def contribution_error(component: str) -> ResponseError:
    """Return a function that compares the contributions of a component to the scores of common tracks."""

    def error(expected: RecommendResponse, found: RecommendResponse, tolerance: float) -> float:
        golden, actual = (
            {track.id: track.contributions[component] for track in response.recommendations}
            for response in (expected, found)
        )
        return max((abs(actual[track] - golden[track]) for track in actual.keys() & golden), default=0.0)

    return error
