"""A music service with simulated listeners and a simulated clock; its feedback store, registry, bundles and assignment
of listeners to variants are the real ones."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from musix_runtime.engine import Engine
from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.schemas import RecommendRequest, RecommendResponse, Variant
from musix_runtime.serving.feedback import ShownTrack
from musix_runtime.serving.model_manager import ModelManager

START_MS = 1_767_225_600_000  # 2026-01-01
STARTED = 5  # tracks of each list
PLAY_MS, SKIP_MS = 180_000, 10_000
SAVED = 0.1  # of the tracks that are played
REMEMBERED = 3  # lists whose tracks are not shown to a listener again
BATCH = 64
# The chance that each of the tracks (n,) is skipped: version, listener's number, ids of the tracks, day.
SkipChance = Callable[[str, int, list[str], int], NDArray[np.float64] | float]


Chosen = Callable[[int, int, np.random.Generator], list[str]]


@dataclass
class SimulatedService:
    """A music service with one server and its listeners.

    `skip_chance` is the planted truth about lists. `chosen` gives the tracks that a listener plays on a day without any
    list: listener's number, day, random generator.
    """

    manager: ModelManager
    store: FeedbackStore
    listeners: list[str]
    skip_chance: SkipChance
    chosen: Chosen = lambda number, day, random: []
    active: float = 0.3  # share of the listeners who come on a day
    seed: int = 0
    start_ms: int = START_MS
    _seen: dict[str, deque[list[str]]] = field(default_factory=dict)

    def live_through(self, day: int) -> float:
        """Show a list to each listener who comes on a day, store what they do, and return the share of skips."""
        self.manager.refresh()
        random = np.random.default_rng([self.seed, day])
        come = [number for number in range(len(self.listeners)) if random.random() < self.active]
        exposures: list[Exposure] = []
        events: list[Event] = []
        for engine, variant, numbers in self._routed(come):
            for start in range(0, len(numbers), BATCH):
                some = numbers[start : start + BATCH]
                for number, answer in zip(some, self._answers(engine, some), strict=True):
                    exposure = self._exposure(engine, variant, number, answer, day, random)
                    exposures.append(exposure)
                    events += self._events(engine, number, exposure, answer, day, random)
                    events += [
                        _event(random, exposure.user_id, None, None, track, "played", exposure.time_ms)
                        for track in self.chosen(number, day, random)
                    ]
        self.store.add_exposures(exposures)
        self.store.add_events(events)
        return sum(event.action == "skipped" for event in events) / max(len(exposures) * STARTED, 1)

    def _routed(self, numbers: list[int]) -> Iterable[tuple[Engine, Variant | None, list[int]]]:
        """Return the listeners of each variant of the running experiment, and the engine that answers them."""
        traffic = self.manager.traffic
        if traffic is None:
            return [(self.manager.engine, None, numbers)]
        by_variant: dict[Variant, list[int]] = {"control": [], "treatment": []}
        for number in numbers:
            by_variant[traffic.experiment.variant(self.listeners[number])].append(number)
        return [(traffic.engines[variant], variant, found) for variant, found in by_variant.items()]

    def _answers(self, engine: Engine, numbers: list[int]) -> list[RecommendResponse]:
        users = [self.listeners[number] for number in numbers]
        seen = [list(chain.from_iterable(self._seen.get(user, ()))) for user in users]
        requests = [RecommendRequest(user_id=user, exclude_ids=ids) for user, ids in zip(users, seen, strict=True)]
        return engine.recommend_batch(requests)

    def _exposure(
        self,
        engine: Engine,
        variant: Variant | None,
        number: int,
        answer: RecommendResponse,
        day: int,
        random: np.random.Generator,
    ) -> Exposure:
        shown = [ShownTrack(track.id, track.position, track.score) for track in answer.recommendations]
        user = self.listeners[number]
        self._seen.setdefault(user, deque(maxlen=REMEMBERED)).append([track.id for track in shown])
        traffic = self.manager.traffic
        return Exposure(
            list_id=random.bytes(16).hex(),
            time_ms=self.start_ms + day * DAY_MS + int(random.integers(DAY_MS - 3_600_000)),
            user_id=user,
            bundle=engine.bundle.name,
            digest=engine.bundle.digest,
            source=answer.source,
            context="{}",
            tracks=msgspec.json.encode(shown).decode(),
            experiment=traffic.experiment.id if traffic else None,
            variant=variant,
            duration_us=2000,
            error=None,
        )

    def _events(
        self,
        engine: Engine,
        number: int,
        exposure: Exposure,
        answer: RecommendResponse,
        day: int,
        random: np.random.Generator,
    ) -> list[Event]:
        """Return what a listener does with the first tracks of a list, one after another."""
        tracks = [track.id for track in answer.recommendations[:STARTED]]
        chance = self.skip_chance(engine.bundle.manifest.version, number, tracks, day)
        time, events = exposure.time_ms, []
        for position, (track, skips) in enumerate(zip(tracks, random.random(len(tracks)) < chance, strict=True), 1):
            actions = ["skipped"] if skips else ["played", "saved"] if random.random() < SAVED else ["played"]
            time += SKIP_MS if skips else PLAY_MS
            events += [
                _event(random, exposure.user_id, exposure.list_id, position, track, action, time) for action in actions
            ]
        return events


def _event(
    random: np.random.Generator,
    user: str,
    list_id: str | None,
    position: int | None,
    track: str,
    action: str,
    time_ms: int,
) -> Event:
    return Event(
        event_id=random.bytes(16).hex(),
        received_ms=time_ms,
        occurred_ms=time_ms,
        user_id=user,
        session_id=None,
        list_id=list_id,
        track_id=track,
        position=position,
        action=action,
        ms_played=SKIP_MS if action == "skipped" else PLAY_MS,
    )
