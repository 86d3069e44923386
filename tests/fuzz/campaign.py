"""A campaign: many hostile bundles one after the other, in one work folder, and the tally of how they ended."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musix_runtime import signature
from tests.fuzz.bases import Base
from tests.fuzz.mutate import mutated
from tests.fuzz.run import Outcome, Runner


@dataclass(frozen=True)
class Trial:
    """One hostile bundle: what it was made of, and how it ended."""

    base: str
    kind: str
    seed: int
    done: str
    outcome: Outcome

    @property
    def replay(self) -> str:
        """The command that makes it again."""
        return f"python -m tests.fuzz --bundle {self.base} --kinds {self.kind} --seed {self.seed} --count 1"


@dataclass
class Tally:
    """What the trials of one kind came to."""

    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("refused", "harmless", "wrong"), 0))
    memory_mb: float = 0.0
    slowest_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.ends[outcome.kind] += 1
        self.memory_mb = max(self.memory_mb, outcome.memory_mb)
        self.slowest_s = max(self.slowest_s, outcome.seconds)


class Workplace:
    """A copy of the base bundle in `work`, whose changed files are put back after each trial."""

    def __init__(self, base: Base, work: Path) -> None:
        self.base, self.folder, self.good = base, work / "bundle", work / "good"
        shutil.copytree(base.folder, self.good)
        shutil.copytree(self.good, self.folder, copy_function=os.link)
        _, self.public = signature.generate(work / "fuzz")
        self.runner = Runner(self.good)

    def trial(self, kind: str, seed: int) -> Trial:
        """Make the hostile bundle of a kind and seed, open and ask it."""
        draft, done = mutated(self.base, kind, seed)
        written = draft.write(self.folder)
        try:
            outcome = self.runner.run(self.folder, self.public if draft.trusted else None)
        finally:
            for name in written:
                (self.folder / name).unlink()
                if (self.good / name).exists():
                    os.link(self.good / name, self.folder / name)
        return Trial(self.base.name, kind, seed, done, outcome)


def campaign(
    places: Sequence[Workplace], kinds: Sequence[str], seed: int, count: int, seconds: float
) -> Iterator[Trial]:
    """Trials with ascending seeds, kinds and bases by turns, until there are `count` or the time is over."""
    end = time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > end:
            return
        place = places[number // len(kinds) % len(places)]
        yield place.trial(kinds[number % len(kinds)], seed + number)
