"""The queue of jobs, on both kinds of databases. Times are numbers of the test."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from musix_runtime.errors import JobError, UnknownJobError
from musix_runtime.feedback.jobs import ABANDONED, CANCELLED, LIST_LIMIT, STOPPED, Lease, Output
from musix_runtime.feedback.schemas import Job
from musix_runtime.feedback.store import FeedbackStore

OUTPUT = Output("the last line", "the first line\nthe last line\n")


def claim(store: FeedbackStore, token: str, now_ms: int = 0, name: str = "demo") -> Job | None:
    """Claim a job for 100 ms."""
    return store.jobs.claim(name, Lease(token, now_ms + 100), now_ms)


def states(store: FeedbackStore) -> dict[str, str]:
    return {job.model: job.state for job in store.jobs.latest("demo")}


def test_the_same_request_twice_is_one_job(store: FeedbackStore) -> None:
    first = store.jobs.add("demo", "all", 1000)
    assert (first.state, first.attempts, first.started_at, first.finished_at) == ("waiting", 0, None, None)
    assert first.created_at.isoformat() == "1970-01-01T00:00:01+00:00"
    assert store.jobs.add("demo", "all", 2000) == first
    assert store.jobs.add("other", "all", 2000).id != first.id
    running = claim(store, "a", 3000)
    assert store.jobs.add("demo", "all", 3000) == running
    assert store.jobs.finish(first.id, Lease("a", 0), "done", "exit code 0", OUTPUT, 4000)
    assert store.jobs.add("demo", "all", 5000).id != first.id


def test_requests_at_the_same_time_are_one_job(store: FeedbackStore) -> None:
    for model in ("a", "b", "c"):
        with ThreadPoolExecutor(8) as threads:
            jobs = list(threads.map(lambda i, model=model: store.jobs.add("demo", model, i), range(16)))
        assert len({job.id for job in jobs}) == 1
    assert len(store.jobs.latest("demo")) == 3


def test_workers_at_the_same_time_claim_each_job_once(store: FeedbackStore) -> None:
    added = {store.jobs.add("demo", f"{i}", 0).id for i in range(24)}

    def claim_all(token: str) -> list[str]:
        claimed = []
        while job := claim(store, token):
            claimed.append(job.id)
        return claimed

    with ThreadPoolExecutor(8) as threads:
        claimed = [job_id for ids in threads.map(claim_all, "abcdefgh") for job_id in ids]
    assert sorted(claimed) == sorted(added)


def test_the_oldest_job_of_the_name_is_claimed_first(store: FeedbackStore) -> None:
    for name, model, now_ms in (("demo", "b", 2), ("demo", "a", 1), ("other", "c", 0)):
        store.jobs.add(name, model, now_ms)
    claimed = [claim(store, "w", 5), claim(store, "w", 5), claim(store, "w", 5)]
    assert [job and (job.model, job.state, job.attempts) for job in claimed] == [
        *(("a", "running", 1), ("b", "running", 1), None)
    ]


def test_a_job_is_claimed_again_when_its_lease_ends(store: FeedbackStore) -> None:
    job_id = store.jobs.add("demo", "all", 0).id
    assert claim(store, "a", 0)
    assert claim(store, "b", 99) is None
    assert store.jobs.renew(job_id, Lease("a", 300), OUTPUT)
    assert claim(store, "b", 299) is None
    again = claim(store, "b", 300)
    assert again
    assert (again.id, again.attempts, again.progress) == (job_id, 2, "")


def test_a_worker_that_lost_its_lease_changes_nothing(store: FeedbackStore) -> None:
    job_id, lost = store.jobs.add("demo", "all", 0).id, Lease("a", 10**6)
    claim(store, "a", 0)
    claim(store, "b", 100)
    before = store.jobs.read(job_id)
    assert store.jobs.renew(job_id, lost, OUTPUT) is None
    assert store.jobs.finish(job_id, lost, "done", "exit code 0", OUTPUT, 150) is None
    assert store.jobs.give_back(job_id, lost, OUTPUT, 150) is None
    assert store.jobs.read(job_id) == before
    assert store.jobs.finish(job_id, Lease("b", 0), "refused", "exit code 3", OUTPUT, 160)
    assert store.jobs.renew(job_id, Lease("b", 10**6), Output()) is None  # as it is over
    after = store.jobs.read(job_id)
    assert (after.state, after.reason, after.progress, after.log) == (
        *("refused", "exit code 3", OUTPUT.progress, OUTPUT.log),
    )


def test_a_job_fails_when_two_workers_were_lost(store: FeedbackStore) -> None:
    job_id = store.jobs.add("demo", "all", 0).id
    claim(store, "a", 0)
    claim(store, "b", 100)
    assert claim(store, "c", 200) is None
    job = store.jobs.read(job_id)
    assert (job.state, job.reason, job.attempts) == ("failed", ABANDONED, 2)
    assert job.finished_at is not None
    assert store.jobs.add("demo", "all", 300).id != job_id


def test_a_request_ends_a_job_whose_workers_were_lost(store: FeedbackStore) -> None:
    job_id = store.jobs.add("demo", "all", 0).id
    claim(store, "a", 0)
    claim(store, "b", 100)
    assert store.jobs.add("demo", "all", 199).id == job_id
    assert store.jobs.add("demo", "all", 200).id != job_id
    assert store.jobs.read(job_id).state == "failed"


def test_a_job_that_is_given_back_was_not_tried(store: FeedbackStore) -> None:
    job_id = store.jobs.add("demo", "all", 0).id
    for now_ms in (0, 1, 2):
        claim(store, "a", now_ms)
        assert store.jobs.give_back(job_id, Lease("a", 0), OUTPUT, now_ms)
        job = store.jobs.read(job_id)
        assert (job.state, job.attempts, job.reason, job.started_at) == ("waiting", 0, STOPPED, None)
    again = claim(store, "b", 3)
    assert again
    assert (again.attempts, again.reason) == (1, None)


def test_a_waiting_job_is_cancelled_at_once(store: FeedbackStore) -> None:
    job_id = store.jobs.add("demo", "all", 0).id
    job = store.jobs.cancel(job_id, 5)
    assert (job.state, job.reason) == ("cancelled", CANCELLED)
    assert claim(store, "a", 6) is None
    with pytest.raises(JobError, match=f"jobs: expected a job that waits or runs, found {job_id}, which is cancelled"):
        store.jobs.cancel(job_id, 7)


def test_the_worker_of_a_running_job_is_asked_to_cancel_it(store: FeedbackStore) -> None:
    job_id, lease = store.jobs.add("demo", "all", 0).id, Lease("a", 100)
    claim(store, "a", 0)
    for _ in range(2):  # asked again, it is the same
        job = store.jobs.cancel(job_id, 5)
        assert (job.state, job.cancel_requested) == ("running", True)
    renewed = store.jobs.renew(job_id, lease, OUTPUT)
    assert renewed
    assert renewed.cancel_requested
    assert store.jobs.finish(job_id, lease, "cancelled", CANCELLED, OUTPUT, 6)
    assert store.jobs.read(job_id).state == "cancelled"


def test_a_cancelled_job_is_not_begun_again(store: FeedbackStore) -> None:
    for model in ("given back", "lost", "lost before"):
        store.jobs.add("demo", model, 0)
    ids = {job.model: job.id for job in (claim(store, token) for token in "abc") if job}
    leases = {model: Lease("abc"[[*ids].index(model)], 0) for model in ids}
    for model in ("given back", "lost"):
        store.jobs.cancel(ids[model], 1)
    assert store.jobs.give_back(ids["given back"], leases["given back"], OUTPUT, 2)
    assert states(store) == {"given back": "cancelled", "lost": "running", "lost before": "running"}
    assert store.jobs.cancel(ids["lost before"], 100).state == "cancelled"  # as its lease has ended
    assert claim(store, "d", 100) is None
    assert set(states(store).values()) == {"cancelled"}


@pytest.mark.parametrize("job_id", ["", "x", "0" * 32, "0" * 31 + "\0", "../" + "0" * 32, "9" * 5000])
def test_an_unknown_job(store: FeedbackStore, job_id: str) -> None:
    for call in (lambda: store.jobs.read(job_id), lambda: store.jobs.cancel(job_id, 0)):
        with pytest.raises(UnknownJobError, match="jobs: expected the id of a job, found "):
            call()


def test_the_estimate_is_the_median_of_jobs_that_were_done(store: FeedbackStore) -> None:
    assert store.jobs.estimate_s("demo") is None
    for model, seconds, state in (("a", 10, "done"), ("b", 30, "done"), ("c", 20, "done"), ("d", 1, "failed")):
        job_id = store.jobs.add("demo", model, 0).id
        claim(store, model, 1000)
        store.jobs.finish(job_id, Lease(model, 0), state, "", OUTPUT, 1000 + 1000 * seconds)  # type: ignore[arg-type]
    assert store.jobs.estimate_s("demo") == 20
    assert store.jobs.estimate_s("other") is None


def test_the_estimate_leaves_out_jobs_that_another_worker_had_begun(store: FeedbackStore) -> None:
    store.jobs.add("demo", "a", 0)
    claim(store, "lost", 0)
    job = claim(store, "b", 10**9)
    assert job
    store.jobs.finish(job.id, Lease("b", 0), "done", "", OUTPUT, 10**9 + 1)
    assert store.jobs.read(job.id).state == "done"
    assert store.jobs.estimate_s("demo") is None


def test_the_latest_jobs_are_listed_newest_first(store: FeedbackStore) -> None:
    for i in range(LIST_LIMIT + 1):
        store.jobs.add("demo", f"{i}", i)
    store.jobs.add("other", "x", 10**6)
    assert [job.model for job in store.jobs.latest("demo")] == [f"{i}" for i in range(LIST_LIMIT, 0, -1)]
