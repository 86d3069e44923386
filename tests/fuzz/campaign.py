"""A campaign: many hostile bundles in one work folder, and statistics of the outcomes."""

import ctypes
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import faiss

from musix_runtime.bundle import signature
from tests.fuzz.bases import Base, base
from tests.fuzz.mutate import mutated
from tests.fuzz.run import Outcome, Runner

M_ARENA_MAX = -8  # of glibc's malloc.h
HARNESS_BYTES = 4 * 2**30  # of address space: a mutation that takes more is a fault of the harness


@dataclass(frozen=True)
class Trial:
    """One hostile bundle: its origin and its outcome."""

    base: str
    kind: str
    seed: int
    done: str
    outcome: Outcome

    @property
    def replay(self) -> str:
        """The command that repeats the trial."""
        return f"python -m tests.fuzz --bundle {self.base} --kinds {self.kind} --seed {self.seed} --count 1"


@dataclass
class Tally:
    """Statistics of the trials of one kind."""

    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("refused", "harmless", "wrong"), 0))
    memory_mb: float = 0.0
    slowest_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.ends[outcome.kind] += 1
        self.memory_mb = max(self.memory_mb, outcome.memory_mb)
        self.slowest_s = max(self.slowest_s, outcome.seconds)


class Workplace:
    """A copy of the base bundle in `work`, whose changed files are restored after each trial."""

    def __init__(self, base: Base, work: Path) -> None:
        work.mkdir()
        self.base, self.folder, self.good = base, work / "bundle", work / "good"
        shutil.copytree(base.folder, self.good)
        shutil.copytree(self.good, self.folder, copy_function=os.link)
        _, self.public = signature.generate(work / "fuzz")
        self.runner = Runner(self.good)

    def trial(self, kind: str, seed: int) -> Trial:
        """Run the trial of a kind and seed."""
        try:
            draft, done = mutated(self.base, kind, seed)
            written = draft.write(self.folder)
        except Exception as error:
            error.add_note(f"in the harness, at --bundle {self.base.name} --kinds {kind} --seed {seed}")
            raise
        try:
            outcome = self.runner.run(self.folder, self.public if draft.trusted else None)
        finally:
            for name in written:
                (self.folder / name).unlink()
                if (self.good / name).exists():
                    os.link(self.good / name, self.folder / name)
        return Trial(self.base.name, kind, seed, done, outcome)


@dataclass(frozen=True)
class Campaign:
    """Trials with ascending seeds, and alternating kinds and bases."""

    bases: Sequence[str]
    kinds: Sequence[str]
    seed: int

    def trial(self, places: Sequence[Workplace], number: int) -> Trial:
        """Run the trial with this number, from 0."""
        place = places[number // len(self.kinds) % len(places)]
        return place.trial(self.kinds[number % len(self.kinds)], self.seed + number)

    def run(self, count: int, seconds: float, jobs: int) -> Iterator[Trial]:
        """Run `count` trials in `jobs` processes; no trial begins after `seconds`."""
        end, numbers = time.monotonic() + seconds, iter(range(count))
        chunks = islice(numbers, 10 * jobs)
        with ProcessPoolExecutor(jobs, get_context("spawn"), _start, (self,)) as workers:
            while chunk := list(chunks):
                yield from workers.map(_trial, chunk)
                chunks = islice(numbers, 10 * jobs if time.monotonic() < end else 0)


_worker: tuple[Campaign, list[Workplace], tempfile.TemporaryDirectory[str]]  # of a process


def _start(campaign: Campaign) -> None:
    """Prepare a worker process. It must not start threads, which its children would not have."""
    global _worker
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)  # each thread would reserve address space, which is limited
    faiss.omp_set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (HARNESS_BYTES, resource.RLIM_INFINITY))
    work = tempfile.TemporaryDirectory(prefix="musix-fuzz-")
    places = [Workplace(base(name), Path(work.name) / str(i)) for i, name in enumerate(campaign.bases)]
    _worker = campaign, places, work


def _trial(number: int) -> Trial:
    campaign, places, _ = _worker
    return campaign.trial(places, number)
