"""Hostile bundles in a separate process: open one, send requests to all routes, check all responses.

The process is forked from one that has imported everything, and limited in memory and CPU time for each bundle. A trial
ends as `refused`, when opening raised a BundleError; as `harmless`, when all answers are well-formed; else as `wrong`.
"""

import faulthandler
import gc
import json
import os
import re
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

from musix_runtime import Engine
from musix_runtime.cli import output
from musix_runtime.errors import BundleError, GoldenError
from musix_runtime.models.parts import open_bundle
from tests.fuzz.ask import Asker, WrongAnswerError

OPEN_BYTES, ANSWER_BYTES = 200 * 2**20, 64 * 2**20  # in addition to the size of the bundle; for all responses together
OPEN_S, GB_S, ANSWER_S = 2.0, 2.0, 2.0  # of CPU: to open, and more for each GB of the bundle; for all answers together
WALL_S = 60  # in case it hangs
CHILD_TRIALS = 20  # bundles that are opened in one child process
STACKS_BYTES = 16 * 2**20 * (os.cpu_count() or 1)  # address space of threads that hash or answer
OUT_OF_MEMORY = ("bad_alloc", "allocate", "MemoryError", "length_error", "vector::_M_default_append")


@dataclass(frozen=True)
class Outcome:
    """The outcome for a bundle: `refused`, `harmless` or `wrong`, with error message and place; the time, and the
    growth of the memory at its peak, with mapped files (where the process ended: its whole peak)."""

    kind: str
    detail: str
    place: str
    seconds: float
    memory_mb: float

    @property
    def fault(self) -> str:
        """A text that is the same for the same fault: message and place, without numbers."""
        text = (
            "".join("0" if item.isdigit() else item for item in self.detail.splitlines()[0][:160])
            if self.detail
            else ""
        )
        return f"{text} [{self.place}]"


class Runner:
    """Forks a child process that opens one bundle after the other, and another one when it ends or has opened
    `CHILD_TRIALS`. Create it before any thread is started."""

    def __init__(self, good: Path) -> None:
        self.asker = Asker(Engine.open(good))
        self.asker.ask(self.asker.good)  # fills caches before the fork
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the runner)
        self.child: _Child | None = None
        gc.collect()
        gc.freeze()  # the children write to no page of these objects

    def run(self, folder: Path, trust: Path | None) -> Outcome:
        """Open the bundle in the child process and send requests."""
        self.errors.seek(0)
        self.errors.truncate()
        child = self.child = self.child or self._fork()
        start = time.perf_counter()
        child.requests.write(json.dumps([str(folder), trust and str(trust)]) + "\n")
        child.requests.flush()
        reply = child.replies.readline()
        seconds = time.perf_counter() - start
        child.trials += 1
        if not reply:
            self.child = None
            status, usage = child.end()
            return Outcome("wrong", *self._crash(status), seconds, usage.ru_maxrss / 1024)
        if child.trials == CHILD_TRIALS:
            self.child = None
            child.end()
        kind, detail, place, memory_mb = json.loads(reply)
        return Outcome(kind, detail.replace(f"{folder}: ", ""), place, seconds, memory_mb)

    def _fork(self) -> "_Child":
        (request, requests), (reply, replies) = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.close(requests)
            os.close(reply)
            self._answer(os.fdopen(request), os.fdopen(replies, "w", 1))
            os._exit(0)
        os.close(request)
        os.close(replies)
        return _Child(pid, os.fdopen(requests, "w"), os.fdopen(reply))

    def _crash(self, status: int) -> tuple[str, str]:
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").splitlines()
        said = next((item for item in lines if "terminate" in item or "what()" in item or "Assert" in item), "")
        place = next((item.strip() for item in lines if "musix_runtime" in item), "")
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
        hang = {"SIGPROF": "hang: CPU time, ", "SIGALRM": "hang: waits, "}.get(name, "crash: ")
        return f"{hang}{name} {said}".strip(), place.rpartition("musix_runtime/")[2].replace('", line ', ":")

    def _answer(self, requests: TextIO, replies: TextIO) -> None:
        """Open the bundles whose paths are read, in the child process."""
        os.dup2(self.errors.fileno(), 1)
        os.dup2(self.errors.fileno(), 2)
        faulthandler.enable(2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPROF, signal.SIGALRM):
            faulthandler.register(number, file=2, chain=True)  # says where it hangs, and lets it end
        start = _address_space()  # memory that a bundle leaves behind counts against those after it
        for line in islice(requests, CHILD_TRIALS):  # no end of file ends it: the next runner's child has the pipe too
            folder, trust = (path and Path(path) for path in json.loads(line))
            before = _reset_peak_mb()
            signal.alarm(WALL_S)
            reply = _describe(partial(self._outcome, start, folder, trust))
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            replies.write(json.dumps([*reply, max(0.0, _peak_mb() - before)]) + "\n")

    def _outcome(self, start: int, folder: Path, trust: Path | None) -> tuple[str, str, str]:
        size = sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
        _limit(start + size + OPEN_BYTES, OPEN_S + GB_S * size / 2**30)
        refusal = None
        try:
            engine = Engine.open(folder, trust)
        except GoldenError as error:
            # An attacker can also replace the golden cases, so the responses must be well-formed too.
            refusal = error
            engine = Engine.from_bundle(open_bundle(folder, trust))
        _limit(_address_space() + ANSWER_BYTES, ANSWER_S)
        self.asker.ask(engine)
        output.print_card(engine.bundle)
        return ("refused", _short(refusal), "") if refusal else ("harmless", "", "")


@dataclass
class _Child:
    """A child process, and how many bundles it has opened."""

    pid: int
    requests: TextIO
    replies: TextIO
    trials: int = 0

    def end(self) -> tuple[int, resource.struct_rusage]:
        """Close the pipes, and return how the process ended and what it used."""
        with suppress(BrokenPipeError):
            self.requests.close()
        self.replies.close()
        _, status, usage = os.wait4(self.pid, 0)
        return status, usage


def _describe(act: Callable[[], tuple[str, str, str]]) -> tuple[str, str, str]:
    """Return the result of `act`, or the description of its error: (kind, detail, place in the runtime)."""
    try:
        return act()
    except BundleError as error:
        if any(item in f"{error}{error.__cause__!r}" for item in OUT_OF_MEMORY):
            return "wrong", f"memory: {type(error.__cause__).__name__}: {_short(error)}", _place(error)
        return "refused", _short(error), ""
    except WrongAnswerError as error:
        return "wrong", _short(error), _place(error.__cause__ or error)
    except BaseException as error:
        return "wrong", f"{type(error).__name__}: {_short(error)}", _place(error)


def _short(error: BaseException) -> str:
    """Return the beginning of an error message, in ASCII."""
    return str(error).encode("ascii", "backslashreplace").decode()[:500]


def _place(error: BaseException) -> str:
    frames = [item for item in traceback.extract_tb(error.__traceback__) if "musix_runtime" in item.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def _limit(address_space: int, seconds: float) -> None:
    """Allow so many bytes of address space, beside stacks, and `seconds` of CPU time from now."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space + STACKS_BYTES, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _address_space() -> int:
    """Return the bytes of address space of this process."""
    pages, *_ = Path("/proc/self/statm").read_text().split()
    return int(pages) * resource.getpagesize()


def _reset_peak_mb() -> float:
    """Begin to measure the peak of resident memory anew, and return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) / 1024
