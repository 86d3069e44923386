"""Feedback of one application: its store, and the records of the lists that it shows."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from musix_runtime.bundle.reader import Bundle
from musix_runtime.feedback.events import TimeLimits, storable
from musix_runtime.feedback.exposures import DROPPED, RESULTS, Exposure, ExposureWriter
from musix_runtime.feedback.opening import open_store
from musix_runtime.schemas import RecommendRequest, RecommendResponse
from musix_runtime.settings import Settings

if TYPE_CHECKING:
    from musix_runtime.feedback.store import FeedbackStore


class ShownTrack(msgspec.Struct, frozen=True):
    """A track of an exposure."""

    id: str
    position: int
    score: float


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
        for result in RESULTS:
            count(result, 0)
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

    def identify(self, request: RecommendRequest, answer: RecommendResponse, bundle: Bundle) -> RecommendResponse:
        """Return the answer with the id of a new list, and put its exposure on the queue of the writer."""
        list_id = uuid4().hex  # 122 random bits of the operating system
        if storable(request.user_id):
            tracks = [ShownTrack(track.id, track.position, track.score) for track in answer.recommendations]
            exposure = Exposure(
                list_id=list_id,
                time_ms=now_ms(),
                user_id=request.user_id,
                bundle=bundle.name,
                digest=bundle.digest,
                source=answer.source,
                context=msgspec.json.encode(request.context).decode(),
                tracks=msgspec.json.encode(tracks).decode(),
            )
            self.writer.add(exposure)
        else:
            self.count(DROPPED, 1)
        return msgspec.structs.replace(answer, list_id=list_id)


def now_ms() -> int:
    """Return the milliseconds since 1970."""
    return time.time_ns() // 1_000_000
