"""One hostile bundle in a separate process: open it, send requests to all routes, check all responses.

The process is forked from one that has imported everything, and limited in memory and CPU time. It ends as `refused`,
when opening raised a BundleError; as `harmless`, when all answers are well-formed; or else as `wrong`.
"""

import faulthandler
import gc
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musix_runtime import Engine
from musix_runtime.cli import output
from musix_runtime.errors import BundleError, GoldenError
from musix_runtime.models.parts import open_bundle
from tests.fuzz.ask import Asker, WrongAnswerError

OPEN_BYTES, ANSWER_BYTES = 200 * 2**20, 64 * 2**20  # in addition to the size of the bundle; for all responses together
OPEN_S, GB_S, ANSWER_S = 2.0, 2.0, 2.0  # of CPU: to open, and more for each GB of the bundle; for all answers together
WALL_S = 60  # in case it hangs
STACKS_BYTES = 16 * 2**20 * (os.cpu_count() or 1)  # address space of threads that hash or answer
OUT_OF_MEMORY = ("bad_alloc", "allocate", "MemoryError", "length_error", "vector::_M_default_append")


@dataclass(frozen=True)
class Outcome:
    """The outcome for a bundle: `refused`, `harmless` or `wrong`, with error message and place; the time, and the peak
    memory with mapped files."""

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
    """Forks a child for each bundle. Create it before any thread is started."""

    def __init__(self, good: Path) -> None:
        self.asker = Asker(Engine.open(good))
        self.asker.ask(self.asker.live.engine)  # fills caches before the fork
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the runner)
        gc.collect()
        gc.freeze()  # the children write to no page of these objects

    def run(self, folder: Path, trust: Path | None) -> Outcome:
        """Open the bundle in a child process and send requests."""
        start = time.perf_counter()
        reading, writing = os.pipe()
        self.errors.seek(0)
        self.errors.truncate()
        pid = os.fork()
        if not pid:
            os.close(reading)
            self._child(folder, trust, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            before, _, reply = pipe.read().partition(b"\n")
        _, status, usage = os.wait4(pid, 0)
        pages = max(0, usage.ru_maxrss * 1024 // resource.getpagesize() - int(before or 0))
        cost = time.perf_counter() - start, pages * resource.getpagesize() / 2**20
        if os.WIFSIGNALED(status) or not reply:
            return Outcome("wrong", *self._crash(status), *cost)
        kind, detail, place = json.loads(reply)
        return Outcome(kind, detail.replace(f"{folder}: ", ""), place, *cost)

    def _crash(self, status: int) -> tuple[str, str]:
        self.errors.seek(0)
        lines = self.errors.read().decode("utf-8", "replace").splitlines()
        said = next((item for item in lines if "terminate" in item or "what()" in item or "Assert" in item), "")
        place = next((item.strip() for item in lines if "musix_runtime" in item), "")
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        name = signal.Signals(number).name if number else f"exit {os.waitstatus_to_exitcode(status)}"
        hang = {"SIGPROF": "hang: CPU time, ", "SIGALRM": "hang: waits, "}.get(name, "crash: ")
        return f"{hang}{name} {said}".strip(), place.rpartition("musix_runtime/")[2].replace('", line ', ":")

    def _child(self, folder: Path, trust: Path | None, writing: int) -> None:
        os.write(writing, b"%d\n" % _pages()[1])
        os.dup2(self.errors.fileno(), 1)
        os.dup2(self.errors.fileno(), 2)
        faulthandler.enable(2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPROF, signal.SIGALRM):
            faulthandler.register(number, file=2, chain=True)  # says where it hangs, and lets it end
        signal.alarm(WALL_S)
        reply = _describe(lambda: self._outcome(folder, trust))
        os.write(writing, json.dumps(reply).encode())
        os._exit(0)

    def _outcome(self, folder: Path, trust: Path | None) -> tuple[str, str, str]:
        size = sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
        _limit(size + OPEN_BYTES, OPEN_S + GB_S * size / 2**30)
        refusal = None
        try:
            engine = Engine.open(folder, trust)
        except GoldenError as error:
            # An attacker can also replace the golden cases, so the responses must be well-formed too.
            refusal = error
            engine = Engine.from_bundle(open_bundle(folder, trust))
        _limit(ANSWER_BYTES, ANSWER_S)
        self.asker.ask(engine)
        output.print_card(engine.bundle)
        return ("refused", _short(refusal), "") if refusal else ("harmless", "", "")


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


def _limit(more_bytes: int, seconds: float) -> None:
    """Allow `more_bytes` of additional address space, and `seconds` of CPU time from now."""
    limit = _pages()[0] * resource.getpagesize() + more_bytes + STACKS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _pages() -> tuple[int, int]:
    """Return the pages of address space and of resident memory of this process."""
    size, resident, *_ = Path("/proc/self/statm").read_text().split()
    return int(size), int(resident)
