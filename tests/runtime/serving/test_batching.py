import asyncio
import threading

import pytest
from starlette.exceptions import HTTPException

from musix_runtime.serving.batching import FEW, WINDOW, Turns


async def same(asked: list) -> list:
    return asked


def test_answers_are_given_first_come_first_served() -> None:
    async def main() -> list[int]:
        turns, order = Turns(10), []

        async def note(asked: list[int]) -> list[None]:
            return [order.extend(asked)]

        await asyncio.gather(*(turns.take(note, i) for i in range(10)))
        return order

    assert asyncio.run(main()) == list(range(10))


def test_who_comes_when_all_places_are_taken_is_sent_away() -> None:
    async def main() -> list[object]:
        turns = Turns(3)
        return await asyncio.gather(*(turns.take(same, i) for i in range(8)), return_exceptions=True)

    found = asyncio.run(main())
    assert found[:4] == [0, 1, 2, 3]  # one is answered, three wait
    assert [each.status_code for each in found[4:]] == [503] * 4
    assert found[4].headers == {"retry-after": "1"}
    assert len({id(each) for each in found[4:]}) == 4  # one that is raised again keeps all its tracebacks


def test_an_answer_that_fails_gives_the_turn_on() -> None:
    async def fail(asked: list[int]) -> list[int]:
        raise ValueError("no answer")

    async def main() -> list[object]:
        turns = Turns(10)
        first = await asyncio.gather(turns.take(fail, 0), turns.take(same, 1), return_exceptions=True)
        return [*first, await turns.take(same, 2)]

    failed, *others = asyncio.run(main())
    assert isinstance(failed, ValueError)
    assert others == [1, 2]


def test_who_leaves_while_waiting_holds_nobody_up() -> None:
    async def main() -> int:
        turns = Turns(2)
        tasks = [asyncio.create_task(turns.take(same, 0)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        return await turns.take(same, 7)

    assert asyncio.run(main()) == 7


def test_a_host_may_go_on_with_another_event_loop() -> None:
    turns = Turns(1)
    for _ in range(3):
        assert asyncio.run(turns.take(same, 1)) == 1


def test_a_full_queue_says_what_is_expected() -> None:
    async def main() -> None:
        turns = Turns(1)
        await asyncio.gather(*(turns.take(same, None) for _ in range(3)))

    with pytest.raises(HTTPException, match="expected fewer requests at a time, found as many waiting as may"):
        asyncio.run(main())


def test_who_was_let_in_has_a_place_until_the_loop_goes_on() -> None:
    async def main() -> list[bool]:
        turns = Turns(2)
        first = [turns.enter() for _ in range(4)]
        await asyncio.sleep(0)
        return [*first, turns.enter()]

    assert asyncio.run(main()) == [True, True, False, False, True]


def test_while_many_are_sent_away_few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[int]:
        turns, now, answered = Turns(10), 1000.0, []
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        for count, later in [(12, 0), (50, 1.1), (50, 1.1), (50, 1.1), (5, 1.1), (50, 1.1), (1, 1.1), (50, 5)]:
            now += later * WINDOW
            found = await asyncio.gather(*(turns.take(same, i) for i in range(count)), return_exceptions=True)
            answered.append(sum(isinstance(each, int) for each in found))
        return answered

    most, few = 11, 1 + FEW  # with the one that is answered at once
    assert asyncio.run(main()) == [most, most, few, few, few, most, 1, most]


def test_those_of_a_kind_and_answer_are_answered_together_in_the_turn_of_the_first() -> None:
    order: list[list[int]] = []
    kind, other = object(), object()

    async def answer(asked: list[int]) -> list[int]:
        order.append(asked)
        return asked

    async def opposite(asked: list[int]) -> list[int]:
        order.append(asked)
        return [-each for each in asked]

    async def main() -> list[int]:
        turns = Turns(50)
        first = [turns.take(answer, i, kind if i % 2 else other, 4) for i in range(6)]
        others = [turns.take(opposite, 6, kind, 4), turns.take(answer, 7, kind, 4), turns.take(answer, 8, kind, 4)]
        return await asyncio.gather(*first, *others)

    assert asyncio.run(main()) == [0, 1, 2, 3, 4, 5, -6, 7, 8]
    assert order == [[0], [1, 3, 5, 7], [2, 4], [6], [8]]


def test_one_that_fails_among_others_fails_alone() -> None:
    async def answer(asked: list[int]) -> list[float]:
        return [1 / each for each in asked]

    async def main() -> list[object]:
        turns, kind = Turns(10), object()
        return await asyncio.gather(*(turns.take(answer, i, kind, 4) for i in (1, 2, 0, 4)), return_exceptions=True)

    found = asyncio.run(main())
    assert [found[0], found[1], found[3]] == [1, 0.5, 0.25]
    assert isinstance(found[2], ZeroDivisionError)


def test_no_thread_is_started() -> None:
    async def main() -> None:
        turns = Turns(10)
        await asyncio.gather(*(turns.take(same, i, None, 8) for i in range(8)))

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


def test_who_leaves_while_it_is_answered_holds_nobody_up() -> None:
    begun, passed = asyncio.Event(), asyncio.Event()

    async def slow(asked: list[int]) -> list[bool]:
        begun.set()
        return [await passed.wait()] * len(asked)

    async def main() -> list[bool]:
        turns = Turns(10)
        tasks = [
            asyncio.create_task(each)
            for each in [
                turns.take(same, 0),
                *(turns.take(slow, 1, None, 2) for _ in "12"),
                *(turns.take(same, True) for _ in "34"),
            ]
        ]
        await begun.wait()
        tasks[1].cancel()
        await asyncio.sleep(0)
        passed.set()
        return [await tasks[2], await turns.take(same, True)]

    assert asyncio.run(main()) == [True, True]
