"""The worker: takes jobs from the queue, one at a time, and runs each as a command in a process of its own."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from musix_runtime.clock import now_ms
from musix_runtime.errors import FeedbackError
from musix_runtime.feedback.jobs import CANCELLED, STOPPED, JobQueue, Lease
from musix_runtime.feedback.schemas import Job, JobState
from musix_trainer.loop.child import Child, Stop

logger = logging.getLogger(__name__)
STATES: dict[int, JobState] = {0: "done", 3: "refused", 5: "nothing_to_do"}  # by exit code; others have failed


@dataclass(frozen=True)
class Timing:
    """How long a lease lasts, the time between its renewals, and that between two looks for a job."""

    lease_s: float = 30.0
    renew_s: float = 5.0
    poll_s: float = 2.0


@dataclass(frozen=True)
class Ending:
    """How a command ended: the state of its job, which waits if it is to be done again, the reason, and the exit code,
    0 if the worker has ended it."""

    state: JobState
    reason: str
    code: int = 0


class Worker:
    """Does the jobs of a name until a stop is requested. `command` returns the command of a job.

    A job that is running then is given back. A command ends when its worker was killed, and before the lease does when
    the worker is paused or cannot renew it: so it never runs beside that of the worker which takes the job next.
    """

    def __init__(
        self, queue: JobQueue, name: str, command: Callable[[Job], Sequence[str]], stop: Stop, timing: Timing
    ) -> None:
        self._queue = queue
        self._name = name
        self._command = command
        self._stop = stop
        self._timing = timing

    def run(self) -> None:
        """Do jobs until a stop is requested. Raises FeedbackError when a job cannot be given back then."""
        logger.info("waits for jobs of %s", self._name)
        while not self._stop.wait(0):
            lease = self._lease(uuid4().hex)
            try:
                job = self._queue.claim(self._name, lease, now_ms())
            except FeedbackError as error:
                logger.error("no job can be taken: %s", error)
                job = None
            if job:
                self._do(job, lease)
            else:
                self._stop.wait(self._timing.poll_s)

    def run_one(self) -> Ending | None:
        """Do the next job, and return how it ended, None if there was none.

        Raises FeedbackError when none can be taken or given back, and when the lease was lost.
        """
        lease = self._lease(uuid4().hex)
        job = self._queue.claim(self._name, lease, now_ms())
        if job is None:
            return None
        ending = self._do(job, lease)
        if ending is None:
            raise FeedbackError(f"job {job.id}: expected a lease until its end, found that it was lost")
        return ending

    def _do(self, job: Job, lease: Lease) -> Ending | None:
        """Run the command of a job and store how it ended. Return that, or None if the lease was lost."""
        logger.info("job %s: attempt %d begins", job.id, job.attempts)
        with Child(self._command(job), self._deadline_ms(lease)) as child:
            ending = self._watch(job, lease, child)
        if ending is None or not self._record(job, lease, ending, child):
            logger.error("job %s: the lease was lost", job.id)
            return None
        logger.info("job %s: %s, %s", job.id, ending.state, ending.reason)
        return ending

    def _lease(self, token: str) -> Lease:
        """Return a lease from now on."""
        return Lease(token, now_ms() + round(1000 * self._timing.lease_s))

    def _deadline_ms(self, lease: Lease) -> int:
        """Return when a command has to end if the lease is not renewed: so long before the lease that it has ended."""
        return lease.until_ms - round(1000 * self._timing.renew_s)

    def _watch(self, job: Job, lease: Lease, child: Child) -> Ending | None:
        """Renew the lease until the command has ended, or has to end. Return None if the lease was lost."""
        while (code := child.wait(self._timing.renew_s, self._stop)) is None:
            if self._stop.wait(0):
                return Ending("waiting", STOPPED)
            renewed = self._renew(job, lease.token, child)
            if renewed is None:
                return None
            if renewed.cancel_requested:
                return Ending("cancelled", CANCELLED)
        if code < 0:  # ended by its watchdog: the deadline has passed
            return None
        if code not in STATES and self._stop.wait(0):  # the same signal may have reached the command
            return Ending("waiting", STOPPED)
        return Ending(STATES.get(code, "failed"), f"exit code {code}", code)

    def _renew(self, job: Job, token: str, child: Child) -> Job | None:
        """Renew the lease and then the deadline. Return None if the lease was lost.

        While the database does not answer, the deadline stays.
        """
        lease = self._lease(token)
        try:
            renewed = self._queue.renew(job.id, lease, child.output)
        except FeedbackError as error:
            logger.error("job %s: the lease cannot be renewed: %s", job.id, error)
            return job
        if renewed:
            child.extend(self._deadline_ms(lease))
        return renewed

    def _record(self, job: Job, lease: Lease, ending: Ending, child: Child) -> bool:
        """Store how a job ended, as soon as the database answers. Return False if the lease was lost.

        Raises FeedbackError when a stop is requested before.
        """
        while True:
            try:
                if ending.state == "waiting":
                    ended = self._queue.give_back(job.id, lease, child.output, now_ms())
                else:
                    ended = self._queue.finish(job.id, lease, ending.state, ending.reason, child.output, now_ms())
                return ended is not None
            except FeedbackError as error:
                logger.error("job %s: its end cannot be stored: %s", job.id, error)
                if self._stop.wait(self._timing.renew_s):
                    raise
