"""Monitoring benchmark: the report about a bundle with simulated listeners, and the time that it takes.

Listeners have tastes of their own. In the live week they may move: a share of their plays is of the most energetic
tracks, and they like fewer tracks than the scores promise.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from musix_runtime import Engine
from musix_runtime.feedback.events import DAY_MS, Event
from musix_runtime.feedback.exposures import Exposure
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.models.arrays import Scores
from musix_runtime.models.features import AUDIO_NAMES
from musix_trainer.loop import report_text
from musix_trainer.loop.monitoring import LIVE_MS, REFERENCE_MS, monitor

NOW_MS = 1_750_000_000_000
SHOWN, STARTED = 10, 5  # tracks of each list
PLAY_MS, SKIP_MS = 180_000, 10_000
LIKED = (0.7, 0.25)  # probability that a track with the score 0 is liked, and what a score of 1 adds
TASTE = 2.0  # spread of the logarithm of how much a listener likes a genre


@dataclass(frozen=True)
class Change:
    """What is other in the live week: the share of plays that are of energetic tracks, and how many fewer are liked."""

    energetic: float = 0.0
    disliked: float = 0.0


def tastes(engine: Engine, listeners: int, random: np.random.Generator) -> Scores:
    """Return the probability that a listener plays a track: by genre and popularity. Shape (listeners, tracks)."""
    catalog = engine.catalog
    genres = catalog.families[:, None] >> np.arange(len(catalog.genres), dtype=np.uint32) & 1
    liking = random.normal(0, TASTE, (listeners, len(catalog.genres))) @ genres.T
    chances = np.exp(liking) * (0.05 + catalog.popularity)
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))


def energetic(engine: Engine) -> Scores:
    """Return the probability of a track when only the most energetic tenth of the catalogue is played."""
    energy = np.nan_to_num(engine.catalog.inputs[:, AUDIO_NAMES.index("energy")])
    chances = (energy >= np.quantile(energy, 0.9)).astype(float)
    return np.asarray(chances / chances.sum())


def simulate(
    engine: Engine, listeners: int, lists: int, change: Change, seed: int = 0
) -> Iterator[tuple[list[Exposure], list[Event]]]:
    """Yield the lists and the events of each listener, who sees `lists` lists in each week of the reference and in the
    live week, and plays what they like."""
    random = np.random.default_rng(seed)
    first = NOW_MS - LIVE_MS - REFERENCE_MS
    weeks = [(first + week * 7 * DAY_MS, Change()) for week in range(4)] + [(NOW_MS - LIVE_MS, change)]
    moved, ids = energetic(engine), engine.catalog.track_ids.take(np.arange(len(engine.catalog)))
    for number in range(listeners):
        taste = tastes(engine, 1, random)[0]
        shown: list[Exposure] = []
        events: list[Event] = []
        for start, now in weeks:
            chances = (1 - now.energetic) * taste + now.energetic * moved
            for at in np.sort(random.integers(start, start + 6 * DAY_MS, lists)).tolist():
                rows = random.choice(len(ids), SHOWN, replace=False, p=chances)
                scores = np.round(random.random(SHOWN), 3)
                exposure = _exposure(engine, f"listener-{number:06d}", at, [ids[row] for row in rows], scores)
                liked = random.random(SHOWN) < LIKED[0] + LIKED[1] * scores - now.disliked
                shown.append(exposure)
                events += _events(exposure, [ids[row] for row in rows[:STARTED]], liked, random)
        yield shown, events


def _exposure(engine: Engine, user: str, at: int, tracks: list[str], scores: Scores) -> Exposure:
    shown = [
        {"id": track, "position": place, "score": score}
        for place, (track, score) in enumerate(zip(tracks, scores.tolist(), strict=True), 1)
    ]
    return Exposure(
        list_id=f"{user}-{at}",
        time_ms=at,
        user_id=user,
        bundle=engine.bundle.name,
        digest=engine.bundle.digest,
        source="hybrid",
        context="{}",
        tracks=msgspec.json.encode(shown).decode(),
    )


def _events(
    exposure: Exposure, tracks: list[str], liked: NDArray[np.bool_], random: np.random.Generator
) -> list[Event]:
    """Return what a listener did with the first tracks of a list, one after another."""
    events, at = [], exposure.time_ms
    for position, (track, likes) in enumerate(zip(tracks, liked, strict=False), 1):
        at += PLAY_MS if likes else SKIP_MS
        event = Event(
            event_id=random.bytes(16).hex(),
            received_ms=at,
            occurred_ms=at,
            user_id=exposure.user_id,
            session_id=None,
            list_id=exposure.list_id,
            track_id=track,
            position=position,
            action="played" if likes else "skipped",
            ms_played=PLAY_MS if likes else SKIP_MS,
        )
        events.append(event)
    return events


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--listeners", default=1000, show_default=True, help="Number of listeners.")
@click.option("--lists", default=8, show_default=True, help="Lists of each listener in a week.")
@click.option("--energetic", default=0.3, show_default=True, help="Share of plays that moves to energetic tracks.")
@click.option("--disliked", default=0.2, show_default=True, help="How many fewer of the tracks are liked.")
def main(bundle: Path, listeners: int, lists: int, energetic: float, disliked: float) -> None:
    """Print the report about a bundle with simulated listeners, and how long it took."""
    engine = Engine.open(bundle)
    with tempfile.TemporaryDirectory() as folder:
        store = FeedbackStore.open(f"sqlite:///{Path(folder) / 'feedback.db'}")
        stored = 0
        for shown, events in simulate(engine, listeners, lists, Change(energetic, disliked)):
            store.add_exposures(shown)
            stored += len(store.add_events(events))
        start = time.perf_counter()
        report = monitor(store, engine, [], NOW_MS)
        seconds = time.perf_counter() - start
        store.close()
    for line in report_text.lines(report):
        click.echo(line)
    click.echo(f"{stored:,} simulated events of {listeners:,} listeners: {seconds:.1f} s")


if __name__ == "__main__":
    main()
