"""Feedback of one application: its store, and the records of the lists that it shows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from musix_runtime.clock import now_ms
from musix_runtime.feedback.events import TimeLimits, storable
from musix_runtime.feedback.exposures import REFUSED, Exposure, ExposureWriter
from musix_runtime.feedback.opening import open_store
from musix_runtime.schemas import RecommendResponse
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.settings import Settings

if TYPE_CHECKING:
    from musix_runtime.feedback.store import FeedbackStore


class ShownTrack(msgspec.Struct, frozen=True):
    """A track of an exposure."""

    id: str
    position: int
    score: float | None


@dataclass(frozen=True)
class Feedback:
    """The feedback store, and the writer of exposures, which works while `recording`."""

    store: "FeedbackStore"
    writer: ExposureWriter
    limits: TimeLimits
    count: Callable[[str, int], None]  # exposures by result

    @classmethod
    def from_settings(cls, settings: Settings, count: Callable[[str, int], None]) -> "Feedback | None":
        """Open the store that the settings name, or return None if they name none. Raises InputError."""
        if not settings.feedback:
            return None
        store = open_store(settings.feedback)
        limits = TimeLimits(settings.events_max_ahead_s, settings.events_max_age_days)
        return cls(store, ExposureWriter(store, count, settings.feedback_keep_days), limits, count)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Write exposures in a thread until the context ends, then write those that are left and close the store."""
        try:
            with self.writer.running():
                yield
        finally:
            self.store.close()

    def record(self, context: RequestContext, answer: RecommendResponse, seconds: float) -> RecommendResponse:
        """Return the answer with the id of a new list, and record its exposure."""
        tracks = [ShownTrack(track.id, track.position, track.score) for track in answer.recommendations]
        exposure = _exposure(context, answer.source, tracks, seconds)
        self._add(exposure)
        return msgspec.structs.replace(answer, list_id=exposure.list_id)

    def record_error(self, context: RequestContext, error: Exception, seconds: float) -> None:
        """Record a recommendation that failed, if it is part of an experiment."""
        if context.variant:
            self._add(_exposure(context, "error", [], seconds, type(error).__name__))

    def _add(self, exposure: Exposure) -> None:
        """Put an exposure on the queue of the writer. One whose user cannot be stored is refused and counted."""
        if storable(exposure.user_id):
            self.writer.add(exposure)
        else:
            self.count(REFUSED, 1)


def _exposure(
    context: RequestContext, source: str, tracks: list[ShownTrack], seconds: float, error: str | None = None
) -> Exposure:
    return Exposure(
        list_id=new_list_id(),
        time_ms=now_ms(),
        user_id=context.request.user_id,
        bundle=context.bundle.name,
        digest=context.bundle.digest,
        source=source,
        context=msgspec.json.encode(context.request.context).decode(),
        tracks=msgspec.json.encode(tracks).decode(),
        experiment=context.traffic.experiment.id if context.traffic else None,
        variant=context.variant,
        duration_us=round(1e6 * seconds),
        error=error,
    )


def new_list_id() -> str:
    """Return the id of a new list: 122 random bits of the operating system."""
    return uuid4().hex


def existing(feedback: Feedback | None) -> Feedback:
    """Return the feedback that a route needs. Raises ValueError without any."""
    if feedback is None:
        raise ValueError("routes: expected a feedback store for the routes about feedback, found none")
    return feedback
