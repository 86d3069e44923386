"""Hostile requests, as raw bytes, against a real server: the status, the form and the size of every answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flood.requests import KINDS, MAX_ANSWER_BYTES, MAX_GROWTH_MB, Memory, ask, attacked


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[tuple[str, Memory]]:
    with attacked(demo_bundle) as found:
        yield found


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_requests_get_short_error_responses(kind: str, server: tuple[str, Memory]) -> None:
    url, memory = server
    wrong = []
    for attack in KINDS[kind]():
        before = memory.reset()
        status, body = ask(url, attack.request)
        growth = memory.peak() - before
        right = has_form(status, body) and len(body) < (MAX_ANSWER_BYTES if status == 200 else MAX_ANSWER_BYTES / 100)
        if status != attack.status or growth > MAX_GROWTH_MB or not right:
            wrong.append(f"{attack.name}: expected {attack.status}, found {status}, +{growth:.0f} MB, {body[:300]!r}")
    assert wrong == []


def has_form(status: int, body: bytes) -> bool:
    """Return whether a response has the common form, without a null in it but for an event's id that is wrong."""
    if not status or b":null" in body.replace(b'"eventId":null', b""):
        return False
    answer = json.loads(body)
    if status == 200:
        return answer.keys() == {"success", "data"} and answer["success"] is True
    error = answer["error"]
    named = [item.keys() == {"path", "message"} and all(item.values()) for item in error["details"]]
    return (
        answer["success"] is False
        and error.keys() == {"code", "message", "details"}
        and bool(error["message"])
        and all(named)
        and (status != 422 or 1 <= len(named) <= 20)
    )
