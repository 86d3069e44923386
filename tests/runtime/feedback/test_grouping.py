"""Groups of several threads: their order, their limit, and an error."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from musix_runtime.errors import FeedbackError
from musix_runtime.feedback.grouping import GroupedWriter


class Recorder:
    """Writes groups, of which the first waits until it may go on."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, items: list[int]) -> list[int]:
        self.groups.append(items)
        if len(self.groups) == 1:
            self.begun.set()
            assert self.go_on.wait(30)
        if 13 in items:
            raise ValueError("expected a lucky number, found 13")
        if 0 in items:
            raise FeedbackError("expected a database that answers, found none")
        return [-item for item in items]


def added(*requests: list[int], limit: int = 100) -> tuple[Recorder, list[Future[list[int]]]]:
    """Write requests of several threads. The first is being written until all others wait."""
    recorder = Recorder()
    writer = GroupedWriter(recorder.write, limit)
    with ThreadPoolExecutor(len(requests)) as threads:
        futures = [threads.submit(writer.add, requests[0])]
        assert recorder.begun.wait(30)
        for i, request in enumerate(requests[1:], 1):
            futures.append(threads.submit(writer.add, request))
            while len(writer._waiting) < i:
                pass
        recorder.go_on.set()
    return recorder, futures


def test_what_waits_is_written_as_one_group() -> None:
    recorder, futures = added([1], [2, 3], [4], [5])
    assert recorder.groups == [[1], [2, 3, 4, 5]]
    assert [future.result() for future in futures] == [[-1], [-2, -3], [-4], [-5]]


def test_a_group_has_a_limit_and_at_least_one_request() -> None:
    recorder, futures = added([1], [2], [3], [4, 5, 6], [7], limit=2)
    assert recorder.groups == [[1], [2, 3], [4, 5, 6], [7]]
    assert [future.result() for future in futures] == [[-1], [-2], [-3], [-4, -5, -6], [-7]]


def test_an_error_is_that_of_all_requests_of_the_group_and_of_no_other() -> None:
    recorder, futures = added([1], [2], [13], [3], limit=2)
    assert recorder.groups == [[1], [2, 13], [3]]
    assert (futures[0].result(), futures[3].result()) == ([-1], [-3])
    for future in futures[1:3]:
        with pytest.raises(ValueError, match="found 13"):
            future.result()


def test_what_waits_for_a_database_that_does_not_answer_waits_no_longer() -> None:
    recorder, futures = added([0], [1], [2], [3], limit=2)
    assert recorder.groups == [[0]]
    for future in futures:
        with pytest.raises(FeedbackError, match="found none"):
            future.result()
