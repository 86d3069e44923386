import asyncio

import pytest
from starlette.exceptions import HTTPException

from musix_runtime.turns import Turns


def test_answers_are_given_first_come_first_served() -> None:
    async def main() -> list[int]:
        turns, order = Turns(10), []
        await asyncio.gather(*(turns.take(lambda i=i: order.append(i)) for i in range(10)))
        return order

    assert asyncio.run(main()) == list(range(10))


def test_who_comes_when_all_places_are_taken_is_sent_away() -> None:
    async def main() -> list[object]:
        turns = Turns(3)
        return await asyncio.gather(*(turns.take(lambda i=i: i) for i in range(8)), return_exceptions=True)

    found = asyncio.run(main())
    assert found[:4] == [0, 1, 2, 3]  # one is answered, three wait
    assert [each.status_code for each in found[4:]] == [503] * 4
    assert found[4].headers == {"retry-after": "1"}


def test_an_answer_that_fails_gives_the_turn_on() -> None:
    def fail() -> None:
        raise ValueError("no answer")

    async def main() -> list[object]:
        turns = Turns(10)
        first = await asyncio.gather(turns.take(fail), turns.take(lambda: 1), return_exceptions=True)
        return [*first, await turns.take(lambda: 2)]

    failed, *others = asyncio.run(main())
    assert isinstance(failed, ValueError)
    assert others == [1, 2]


def test_who_leaves_while_waiting_holds_nobody_up() -> None:
    async def main() -> int:
        turns = Turns(2)
        tasks = [asyncio.create_task(turns.take(lambda: 0)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        return await turns.take(lambda: 7)

    assert asyncio.run(main()) == 7


def test_a_host_may_go_on_with_another_event_loop() -> None:
    turns = Turns(1)
    for _ in range(3):
        assert asyncio.run(turns.take(lambda: 1)) == 1


def test_a_full_queue_says_what_is_expected() -> None:
    async def main() -> None:
        turns = Turns(1)
        await asyncio.gather(*(turns.take(lambda: None) for _ in range(3)))

    with pytest.raises(HTTPException, match="expected at most 1 requests to wait, found as many"):
        asyncio.run(main())
