"""A worker as a process for tests: python worker_process.py DATABASE LEASE FILE SECONDS

Its leases last LEASE seconds. Each of its jobs appends lines to FILE while it runs, which takes SECONDS: its model, the
ids of the worker and of its own process, and a word.
"""

import logging
import os
import signal
import sys

from musix_runtime.feedback.schemas import Job
from musix_runtime.feedback.store import FeedbackStore
from musix_trainer.loop.child import Stop
from musix_trainer.loop.worker import Timing, Worker

PROGRAM = """
import os, sys, time
file, seconds, model, worker = sys.argv[1:]
out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
say = lambda word: os.write(out, f"{model} {worker} {os.getpid()} {word}\\n".encode())
say("start")
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    say("runs")
    time.sleep(0.01)
say("end")
"""


def command(job: Job) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", PROGRAM, *sys.argv[3:], job.model, f"{os.getpid()}"]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    lease_s = float(sys.argv[2])
    with Stop() as stop:
        signal.signal(signal.SIGTERM, lambda number, frame: stop.request())
        Worker(FeedbackStore.open(sys.argv[1]).jobs, "demo", command, stop, Timing(lease_s, lease_s / 6, 0.05)).run()
