from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from musix_runtime.errors import RequestError
from musix_runtime.feedback.events import DAY_MS, Event, TimeLimits, milliseconds, to_event
from musix_runtime.feedback.schemas import EventRequest
from musix_runtime.parsing import parse

SENT = datetime(2026, 1, 31, 20, tzinfo=UTC)
LIMITS = TimeLimits(max_ahead_s=300, max_age_days=30)
RECEIVED_MS = milliseconds(SENT) + 7 * DAY_MS  # the client's clock is a week late


def convert(before_sending: timedelta = timedelta(), **fields: Any) -> Event:
    body = {"eventId": "e", "userId": "u", "trackId": "t", "action": "played", "occurredAt": SENT - before_sending}
    return to_event(parse(body | fields, EventRequest), SENT, RECEIVED_MS, LIMITS)


@pytest.mark.parametrize("before", [timedelta(0), timedelta(minutes=3), timedelta(days=30), timedelta(minutes=-5)])
def test_time_is_corrected_by_the_clock_of_the_server(before: timedelta) -> None:
    assert convert(before).occurred_ms == RECEIVED_MS - before // timedelta(milliseconds=1)


def test_times_with_other_offsets_are_the_same_moment() -> None:
    assert convert(occurredAt="2026-01-31T21:59:00+02:00").occurred_ms == RECEIVED_MS - 60_000
    assert convert(occurredAt="2026-01-31T19:59:00Z").occurred_ms == RECEIVED_MS - 60_000


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (timedelta(minutes=-5, milliseconds=-1), "expected at most 300 s after sentAt, found 301 s"),
        (timedelta(days=30, milliseconds=1), "expected at most 30 days before sentAt, found 31 days"),
        (timedelta(days=700_000), "expected at most 30 days before sentAt, found 700,000 days"),
    ],
)
def test_events_too_far_from_the_time_of_receipt_are_refused(before: timedelta, message: str) -> None:
    with pytest.raises(RequestError, match=f"occurredAt: {message}"):
        convert(before)


def test_a_time_before_1970_is_refused() -> None:
    limits = TimeLimits(max_ahead_s=300, max_age_days=36_500)
    body = {"eventId": "e", "userId": "u", "trackId": "t", "action": "played", "occurredAt": "1969-12-31T23:59:59Z"}
    with pytest.raises(RequestError, match="occurredAt: expected a time of 1970 or later, found 1969-12-31"):
        to_event(parse(body, EventRequest), SENT, milliseconds(SENT), limits)


@pytest.mark.parametrize("name", ["eventId", "userId", "trackId", "sessionId", "listId"])
@pytest.mark.parametrize("value", ["a\0b", "é" * 65])
def test_ids_that_cannot_be_stored_are_refused(name: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"^{name}: expected at most 128 bytes without NUL, found"):
        convert(**{name: value})


def test_track_ids_have_the_spellings_of_other_routes() -> None:
    for text in ("spotify:track:4uLU6hMCjMI75M1A2tKUQC", "https://open.spotify.com/track/4uLU6hMCjMI75M1A2tKUQC?si=1"):
        assert convert(trackId=text).track_id == "4uLU6hMCjMI75M1A2tKUQC"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": "sung"}, "action: expected shown, played, skipped, saved or clicked, found 'sung'"),
        ({"occurredAt": "2026-01-31T20:00:00"}, "occurredAt: expected a time in RFC 3339, such as 2026-"),
        ({"occurredAt": "yesterday"}, "occurredAt: expected a time in RFC 3339, such as 2026-"),
        ({"position": 0}, "position: expected int >= 1, found 0"),
        ({"mood": "calm"}, "mood: unknown field"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        convert(**fields)
