"""Simulated listeners of an experiment: the lists that they saw, and what they did, with a planted effect on skips."""

import json
from collections.abc import Iterator

import numpy as np

from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.registry.experiments import Experiment

TRACKS = 1000
STARTED = 5  # tracks of each list
DAYS = 28
PLAY_MS, SKIP_MS = 180_000, 10_000


def simulate(
    experiment: Experiment, listeners: int, lists: int, effect: float, seed: int = 0
) -> Iterator[tuple[list[Exposure], list[Event]]]:
    """Yield the lists and the events of each listener, who sees `lists` lists before the experiment and as many in it.

    A listener skips a share of the tracks, which differs between listeners; the treatment adds `effect` to it.
    """
    random = np.random.default_rng(seed)
    for number in range(listeners):
        user, rate = f"listener-{number:06d}", random.beta(4, 12)
        variant = experiment.variant(user)
        shown: list[Exposure] = []
        events: list[Event] = []
        for period, chance in ((-1, rate), (0, rate + effect * (variant == "treatment"))):
            for time in np.sort(random.integers(period * DAYS * DAY_MS, (period + 1) * DAYS * DAY_MS, lists)):
                tracks = [f"track-{track:04d}" for track in random.choice(TRACKS, STARTED, replace=False)]
                exposure = _exposure(experiment, user, int(time), tracks, random)
                shown += [exposure] if period == 0 else []
                events += _plays(exposure, tracks, chance, random)
        yield shown, events


def _exposure(experiment: Experiment, user: str, time: int, tracks: list[str], random: np.random.Generator) -> Exposure:
    variant = experiment.variant(user)
    return Exposure(
        list_id=random.bytes(16).hex(),
        time_ms=experiment.started_ms + time,
        user_id=user,
        bundle=f"{experiment.name}-{experiment.choices[variant]}",
        digest="",
        source="hybrid",
        context="{}",
        tracks=json.dumps([{"id": track} for track in tracks]),
        experiment=experiment.id,
        variant=variant,
        duration_us=int(random.integers(1000, 3000)),
        error=None,
    )


def _plays(exposure: Exposure, tracks: list[str], chance: float, random: np.random.Generator) -> list[Event]:
    """Return what a listener did with the tracks of a list, one after another."""
    time, events = exposure.time_ms, []
    for position, (track, skipped) in enumerate(zip(tracks, random.random(STARTED) < chance, strict=True), 1):
        played = SKIP_MS if skipped else PLAY_MS
        time += played
        events.append(
            Event(
                event_id=random.bytes(16).hex(),
                received_ms=time,
                occurred_ms=time,
                user_id=exposure.user_id,
                session_id=None,
                list_id=exposure.list_id,
                track_id=track,
                position=position,
                action="skipped" if skipped else "played",
                ms_played=played,
            )
        )
    return events
