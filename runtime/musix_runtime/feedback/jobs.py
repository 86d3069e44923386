"""The queue of jobs in the feedback database.

A worker that claims a job holds it by a lease, and renews the lease while the job runs. When the lease ends without
that, the worker is gone, and another one claims the job, up to `MAX_ATTEMPTS` times. Every change by a worker names the
token of its lease, so that a worker which has lost it changes nothing.
"""

import re
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, or_, select, update

from musix_runtime.clock import to_datetime
from musix_runtime.errors import JobError, UnknownJobError, shorten
from musix_runtime.feedback.database import INSERT_UNIQUE
from musix_runtime.feedback.schemas import Job, JobState, LoggedJob
from musix_runtime.feedback.tables import JOBS

if TYPE_CHECKING:
    from musix_runtime.feedback.store import FeedbackStore

MAX_ATTEMPTS = 2
LIST_LIMIT = 100  # jobs
ESTIMATE_LIMIT = 20  # jobs whose durations tell how long the next one takes
ID = re.compile(r"[0-9a-f]{32}")
ABANDONED = f"the worker was lost during {MAX_ATTEMPTS} attempts"
CANCELLED = "cancelled on request"
STOPPED = "the worker was stopped"

TIMES = ("created", "started", "finished")
COLUMNS = [
    *(JOBS.c.id, JOBS.c.name, JOBS.c.model, JOBS.c.state, JOBS.c.created_ms, JOBS.c.started_ms, JOBS.c.finished_ms),
    *(JOBS.c.attempts, JOBS.c.cancel_requested, JOBS.c.progress, JOBS.c.reason),
]
UNFINISHED = JOBS.c.finished_ms.is_(None)
NO_LEASE = {"lease_token": None, "lease_until_ms": None}


@dataclass(frozen=True)
class Lease:
    """The right of a worker to run a job: a random token, and its end in ms since 1970."""

    token: str
    until_ms: int


@dataclass(frozen=True)
class Output:
    """What a job has printed: the last line, and the end of all. Without NUL, which PostgreSQL cannot store."""

    progress: str = ""
    log: str = ""


class JobQueue:
    """The jobs of a feedback store, which has it as `jobs`. Times are in ms since 1970, by the clock of the caller."""

    def __init__(self, store: "FeedbackStore") -> None:
        self._store = store

    def add(self, name: str, model: str, now_ms: int) -> Job:
        """Add a job. While one of the same name and model waits or runs, return that one."""
        values = {"id": uuid4().hex, "name": name, "model": model, "state": "waiting", "created_ms": now_ms}
        values |= {"attempts": 0, "cancel_requested": False, "progress": "", "log": ""}
        unfinished = select(*COLUMNS).where(JOBS.c.name == name, JOBS.c.model == model, UNFINISHED)
        while True:
            with self._store.writing() as connection:
                _end_unclaimed(connection, now_ms)
                insert = INSERT_UNIQUE[connection.dialect.name]
                connection.execute(insert(JOBS).values(values).on_conflict_do_nothing())
                row = connection.execute(unfinished).mappings().one_or_none()
            if row is not None:  # else the other job ended at this moment
                return Job(**_fields(row))

    def claim(self, name: str, lease: Lease, now_ms: int) -> Job | None:
        """Begin the oldest job of a name that waits, or whose lease has ended. Return None if there is none."""
        free = select(JOBS.c.id).where(JOBS.c.name == name, UNFINISHED, _unclaimed(now_ms))
        oldest = free.order_by(JOBS.c.created_ms, JOBS.c.id).limit(1).with_for_update(skip_locked=True)
        values = {"state": "running", "started_ms": now_ms, "attempts": JOBS.c.attempts + 1, "reason": None}
        values |= {"lease_token": lease.token, "lease_until_ms": lease.until_ms, "progress": "", "log": ""}
        with self._store.writing() as connection:
            _end_unclaimed(connection, now_ms)
            job_id = connection.execute(oldest).scalar_one_or_none()
            if job_id is None:
                return None
            claimed = update(JOBS).where(JOBS.c.id == job_id).values(values).returning(*COLUMNS)
            return Job(**_fields(connection.execute(claimed).mappings().one()))

    def renew(self, job_id: str, lease: Lease, output: Output) -> Job | None:
        """Extend a lease to its new end, and store the output. Return None if the lease was lost."""
        with self._store.writing() as connection:
            return _change(connection, job_id, lease, output, lease_until_ms=lease.until_ms)

    def finish(
        self, job_id: str, lease: Lease, state: JobState, reason: str, output: Output, now_ms: int
    ) -> Job | None:
        """End a job in a state, for a reason. Return None if the lease was lost."""
        with self._store.writing() as connection:
            values = {"state": state, "reason": reason, "finished_ms": now_ms, **NO_LEASE}
            return _change(connection, job_id, lease, output, **values)

    def give_back(self, job_id: str, lease: Lease, output: Output, now_ms: int) -> Job | None:
        """Let a job wait as before it was claimed, or cancel it if that was asked for. Return None if the lease was
        lost."""
        values = {"state": "waiting", "reason": STOPPED, "attempts": JOBS.c.attempts - 1, "started_ms": None}
        with self._store.writing() as connection:
            job = _change(connection, job_id, lease, output, **values, **NO_LEASE)
            _end_unclaimed(connection, now_ms)
            return job

    def cancel(self, job_id: str, now_ms: int) -> LoggedJob:
        """Cancel a job: at once, or, if it is running, when its worker renews the lease.

        Raises UnknownJobError, and JobError for a job that is over.
        """
        with self._store.writing() as connection:
            wanted = update(JOBS).where(JOBS.c.id == job_id, UNFINISHED).values(cancel_requested=True)
            changed = connection.execute(wanted).rowcount if ID.fullmatch(job_id) else 0
            _end_unclaimed(connection, now_ms)
            job = _read(connection, job_id)
        if not changed:
            raise JobError(f"jobs: expected a job that waits or runs, found {job_id}, which is {job.state}")
        return job

    def read(self, job_id: str) -> LoggedJob:
        """Return a job. Raises UnknownJobError."""
        with self._store.reading() as connection:
            return _read(connection, job_id)

    def latest(self, name: str) -> list[Job]:
        """Return the last `LIST_LIMIT` jobs of a name, newest first."""
        wanted = select(*COLUMNS).where(JOBS.c.name == name).order_by(JOBS.c.created_ms.desc(), JOBS.c.id)
        with self._store.reading() as connection:
            return [Job(**_fields(row)) for row in connection.execute(wanted.limit(LIST_LIMIT)).mappings()]

    def estimate_s(self, name: str) -> float | None:
        """Return the median of the seconds that the last jobs of a name took which were done at the first attempt, None
        if there is none."""
        duration = JOBS.c.finished_ms - JOBS.c.started_ms
        done = select(duration).where(JOBS.c.name == name, JOBS.c.state == "done", JOBS.c.attempts == 1)
        last = done.order_by(JOBS.c.finished_ms.desc()).limit(ESTIMATE_LIMIT)
        with self._store.reading() as connection:
            durations = connection.execute(last).scalars().all()
        return median(durations) / 1000 if durations else None


def _unclaimed(now_ms: int) -> ColumnElement[bool]:
    """Return the condition that no worker holds an unfinished job."""
    return or_(JOBS.c.state == "waiting", JOBS.c.lease_until_ms <= now_ms)


def _end_unclaimed(connection: Connection, now_ms: int) -> None:
    """End the jobs that no worker holds and none may claim: those to be cancelled, and those that were tried enough."""
    unclaimed = update(JOBS).where(UNFINISHED, _unclaimed(now_ms)).values(finished_ms=now_ms, **NO_LEASE)
    cancelled = unclaimed.where(JOBS.c.cancel_requested).values(state="cancelled", reason=CANCELLED)
    abandoned = unclaimed.where(JOBS.c.attempts >= MAX_ATTEMPTS).values(state="failed", reason=ABANDONED)
    for ended in (cancelled, abandoned):
        connection.execute(ended)


def _change(connection: Connection, job_id: str, lease: Lease, output: Output, **values: Any) -> Job | None:
    """Change a job and store its output. Return it, or None if the lease is not the job's."""
    held = and_(JOBS.c.id == job_id, JOBS.c.lease_token == lease.token)
    values |= {"progress": output.progress, "log": output.log}
    changed = update(JOBS).where(held).values(values).returning(*COLUMNS)
    row = connection.execute(changed).mappings().one_or_none()
    return None if row is None else Job(**_fields(row))


def _read(connection: Connection, job_id: str) -> LoggedJob:
    wanted = select(*COLUMNS, JOBS.c.log).where(JOBS.c.id == job_id)
    row = connection.execute(wanted).mappings().one_or_none() if ID.fullmatch(job_id) else None
    if row is None:
        raise UnknownJobError(f"jobs: expected the id of a job, found {shorten(job_id)!r}")
    return LoggedJob(**_fields(row))


def _fields(row: RowMapping) -> dict[str, Any]:
    """Return the columns of a row as fields of a Job, whose times are datetimes."""
    fields: dict[str, Any] = dict(row)
    times = {name: fields.pop(f"{name}_ms") for name in TIMES}
    return fields | {f"{name}_at": None if time is None else to_datetime(time) for name, time in times.items()}
