import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import pytest
from starlette.exceptions import HTTPException

from musix_runtime.serving.batching import GATHER_S, MAX_BATCH_S, SHED_QUEUE_LIMIT, SHED_WINDOW_S, DynamicBatcher


class Handler:
    """An endpoint that answers batches with a function."""

    def __init__(self, answer: Callable[[list], list], max_batch_size: int = 1) -> None:
        self.handle_batch = answer
        self.max_batch_size = max_batch_size


SAME = Handler(lambda requests: requests)


def test_requests_are_answered_in_order_of_arrival() -> None:
    order: list[int] = []
    note = Handler(lambda requests: [order.extend(requests)])

    async def main() -> None:
        batcher = DynamicBatcher(10)
        await asyncio.gather(*(batcher.submit(note, i) for i in range(10)))

    asyncio.run(main())
    assert order == list(range(10))


def test_requests_beyond_the_queue_are_rejected() -> None:
    async def main() -> list[object]:
        batcher = DynamicBatcher(3)
        return await asyncio.gather(*(batcher.submit(SAME, i) for i in range(8)), return_exceptions=True)

    result = asyncio.run(main())
    assert result[:4] == [0, 1, 2, 3]  # one is answered at once, three wait
    assert [item.status_code for item in result[4:]] == [503] * 4
    assert result[4].headers == {"retry-after": "1"}
    assert len({id(item) for item in result[4:]}) == 4  # an error that is raised again keeps all its tracebacks


def test_the_queue_continues_after_an_error() -> None:
    def fail(requests: list[int]) -> list[int]:
        raise ValueError("no answer")

    async def main() -> list[object]:
        batcher = DynamicBatcher(10)
        first = await asyncio.gather(batcher.submit(Handler(fail), 0), batcher.submit(SAME, 1), return_exceptions=True)
        return [*first, await batcher.submit(SAME, 2)]

    error, *others = asyncio.run(main())
    assert isinstance(error, ValueError)
    assert others == [1, 2]


def test_cancelled_request_leaves_the_queue() -> None:
    async def main() -> int:
        batcher = DynamicBatcher(2)
        tasks = [asyncio.create_task(batcher.submit(SAME, 0)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        return await batcher.submit(SAME, 7)

    assert asyncio.run(main()) == 7


def test_a_cancelled_request_does_not_delay_the_others_of_its_batch() -> None:
    async def main() -> list[int]:
        batcher, handler = DynamicBatcher(10), Handler(lambda requests: requests, 4)
        tasks = [asyncio.create_task(batcher.submit(handler, i)) for i in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[3].cancel()
        return [await tasks[i] for i in (0, 2, 4)]

    assert asyncio.run(main()) == [0, 2, 4]


def test_a_host_may_replace_its_event_loop() -> None:
    batcher = DynamicBatcher(1)
    for _ in range(3):
        assert asyncio.run(batcher.submit(SAME, 1)) == 1


def test_message_of_a_rejection() -> None:
    async def main() -> None:
        batcher = DynamicBatcher(1)
        await asyncio.gather(*(batcher.submit(SAME, None) for _ in range(3)))

    with pytest.raises(HTTPException, match="expected fewer requests at a time, found a full queue"):
        asyncio.run(main())


def test_an_admitted_request_keeps_its_place_for_one_iteration_of_the_loop() -> None:
    async def main() -> list[bool]:
        batcher = DynamicBatcher(2)
        first = [batcher.try_admit() for _ in range(4)]
        await asyncio.sleep(0)
        return [*first, batcher.try_admit()]

    assert asyncio.run(main()) == [True, True, False, False, True]


def test_the_queue_is_shorter_while_many_requests_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[int]:
        batcher, later, answered = DynamicBatcher(10), 0.0, []
        clock = asyncio.get_running_loop().time
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock() + later)
        for count, windows in [(12, 0), (50, 1.1), (50, 1.1), (50, 1.1), (5, 1.1), (50, 1.1), (1, 1.1), (50, 5)]:
            later += windows * SHED_WINDOW_S
            result = await asyncio.gather(*(batcher.submit(SAME, i) for i in range(count)), return_exceptions=True)
            answered.append(sum(isinstance(item, int) for item in result))
        return answered

    most, few = 11, 1 + SHED_QUEUE_LIMIT  # with the one that is answered at once
    assert asyncio.run(main()) == [most, most, few, few, few, most, 1, most]


def test_requests_of_one_endpoint_and_key_share_a_batch() -> None:
    order: list[list[int]] = []
    key, other = object(), object()

    def answer(requests: list[int]) -> list[int]:
        order.append(requests)
        return requests

    def negate(requests: list[int]) -> list[int]:
        order.append(requests)
        return [-item for item in requests]

    async def main() -> list[int]:
        batcher, positive, negative = DynamicBatcher(50), Handler(answer, 4), Handler(negate, 4)
        first = [batcher.submit(positive, i, key if i % 2 else other) for i in range(6)]
        others = [batcher.submit(negative, 6, key), batcher.submit(positive, 7, key), batcher.submit(positive, 8, key)]
        return await asyncio.gather(*first, *others)

    assert asyncio.run(main()) == [0, 1, 2, 3, 4, 5, -6, 7, 8]
    assert order == [[0], [1, 3, 5, 7], [2, 4], [6], [8]]


def test_slow_requests_share_a_batch_only_as_long_as_it_holds_the_loop_shortly() -> None:
    sizes: list[int] = []

    def slow(requests: list[int]) -> list[int]:
        sizes.append(len(requests))
        time.sleep(len(requests) * MAX_BATCH_S / 4)
        return requests

    async def main() -> None:
        batcher, handler = DynamicBatcher(20), Handler(slow, 16)
        await asyncio.gather(*(batcher.submit(handler, i) for i in range(13)))

    asyncio.run(main())
    assert sum(sizes) == 13
    assert max(sizes) <= 4


def test_clients_that_ask_again_after_each_response_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def answer(requests: list[int]) -> list[int]:
        sizes.append(len(requests))
        return requests

    async def client(batcher: DynamicBatcher, handler: Handler, number: int) -> None:
        for _ in range(5):
            assert await batcher.submit(handler, number) == number
            for _ in range(number):  # each one takes longer than the one before
                await asyncio.sleep(0)

    async def main() -> None:
        ticks = itertools.count()  # a clock that other processes cannot slow down
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(ticks) * GATHER_S / 100)
        batcher, handler = DynamicBatcher(10), Handler(answer, 8)
        await asyncio.gather(*(client(batcher, handler, i) for i in range(4)))

    asyncio.run(main())
    assert sizes[0] == 1  # the first one did not wait
    assert sizes[2:-1] == [4] * len(sizes[2:-1])


def test_requests_wait_for_no_client_that_does_not_ask_again() -> None:
    async def main() -> list[int]:
        batcher, handler = DynamicBatcher(10), Handler(lambda requests: requests, 8)
        await asyncio.gather(*(batcher.submit(handler, i) for i in range(6)))
        return await asyncio.wait_for(asyncio.gather(*(batcher.submit(handler, i) for i in range(2))), 5)

    assert asyncio.run(main()) == [0, 1]


def test_an_error_of_one_request_does_not_fail_the_others_of_its_batch() -> None:
    handler = Handler(lambda requests: [1 / item for item in requests], 4)

    async def main() -> list[object]:
        batcher, key = DynamicBatcher(10), object()
        return await asyncio.gather(*(batcher.submit(handler, i, key) for i in (1, 2, 0, 4)), return_exceptions=True)

    result = asyncio.run(main())
    assert [result[0], result[1], result[3]] == [1, 0.5, 0.25]
    assert isinstance(result[2], ZeroDivisionError)


def test_no_thread_is_started() -> None:
    async def main() -> None:
        batcher, handler = DynamicBatcher(10), Handler(lambda requests: requests, 8)
        await asyncio.gather(*(batcher.submit(handler, i) for i in range(8)))

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before
