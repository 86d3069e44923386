"""Requests and responses, typed. The same messages serve the library, the command line and HTTP."""

from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct, field

from musix_runtime.bundle.manifest import Feature
from musix_runtime.errors import RequestError, Violation, shorten
from musix_runtime.models import features

BATCH_LIMIT = 1000
TEXT_LIMIT = 1000
LIST_LIMIT = 10_000

TimeRange = Literal["short_term", "medium_term", "long_term"]
RANGES = get_args(TimeRange)

Id = Annotated[str, Meta(min_length=1, max_length=TEXT_LIMIT)]
Limit = Annotated[int, Meta(ge=1, le=100)]


def _number(feature: Feature) -> Any:
    return Annotated[float, Meta(ge=feature.low, le=feature.high, description=feature.unit)]


_Text = Annotated[str, Meta(max_length=TEXT_LIMIT)]
_Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]

# The 12 audio features under Spotify's own names, all of them required. What else Spotify's object holds is accepted,
# so that it can be passed on as it is; of that only the duration is read.
AudioFeatures = msgspec.defstruct(
    "AudioFeatures",
    [
        *((feature.name, _number(feature)) for feature in features.AUDIO),
        *((name, _Text | None, None) for name in ("type", "id", "uri", "track_href", "analysis_url")),
        ("duration_ms", _Milliseconds | None, None),
    ],
    frozen=True,
    forbid_unknown_fields=True,
)


class Request(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A question; a field that does not exist is an error, so that a misspelt one is noticed."""


class ClassifyRequest(Request, frozen=True):
    """Which genre and mood? Whatever is left out is taken from the catalogue, if the track is in it."""

    track_id: Id | None = None
    audio_features: AudioFeatures | None = None  # type: ignore[valid-type]
    artists: Annotated[list[_Text], Meta(max_length=100)] | None = None
    name: _Text | None = None
    duration_ms: _Milliseconds | None = None
    popularity: Annotated[float, Meta(ge=0, le=100)] | None = None
    explicit: bool | None = None


class Context(Request, frozen=True):
    """The listener's situation. The hour is of the day in UTC, as in the feedback that was learned from."""

    hour: Annotated[int, Meta(ge=0, le=23)] | None = None


class RecommendRequest(Request, frozen=True):
    """What shall this listener hear next?"""

    user_id: Id
    current_track_id: Id | None = None
    limit: Limit = 10
    exclude_ids: Annotated[list[_Text], Meta(max_length=LIST_LIMIT)] = field(default_factory=list)
    time_range: TimeRange = "medium_term"
    history: Annotated[list[_Text], Meta(max_length=LIST_LIMIT)] | None = None
    context: Context = field(default_factory=Context)


class SimilarRequest(Request, frozen=True):
    """Which tracks are like this one?"""

    track_id: Id
    limit: Limit = 10


class Answer(Struct, frozen=True, rename="camel"):
    """An answer, or a part of one."""


class GenreConfidence(Answer, frozen=True):
    """A family, and the share of such answers that are right."""

    name: str
    confidence: float


class MoodAnswer(Answer, frozen=True):
    """The likeliest mood, and the probability of each."""

    primary: str
    probabilities: dict[str, float]


class Classification(Answer, frozen=True):
    """The five likeliest genres, best first, and the mood."""

    genres: list[GenreConfidence]
    mood: MoodAnswer
    timestamp: str


class Recommendation(Answer, frozen=True):
    """A track, its score in 0..1 and why: `contributions`, with their `base`, sum to the score."""

    id: str
    name: str
    artist: str
    score: float
    reason: str
    contributions: dict[str, float]
    genre: list[str]
    mood: str


class Recommendations(Answer, frozen=True):
    """Tracks, best first. `source`: hybrid, collab, history, content or popular."""

    recommendations: list[Recommendation]
    source: str
    generated_at: str


class SimilarTrack(Answer, frozen=True):
    """A track, and the cosine of its content vector with the asked one's."""

    id: str
    name: str
    artist: str
    similarity: float


class Similar(Answer, frozen=True):
    """The nearest tracks, best first."""

    tracks: list[SimilarTrack]


T = TypeVar("T")


def parse(raw: Any, type_: type[T], path: str = "") -> T:
    """Turn decoded JSON into a message. Raises RequestError that names every wrong field by its path."""
    try:
        return msgspec.convert(raw, type_)
    except msgspec.ValidationError as error:
        found = _violations(raw, type_, path) or [violation(error, path)]
        raise RequestError(found) from error


def _violations(raw: Any, type_: Any, path: str) -> list[Violation]:
    """Check field by field, since msgspec stops at the first wrong one."""
    if not isinstance(raw, dict) or not (isinstance(type_, type) and issubclass(type_, Struct)):
        return []
    fields = {each.encode_name: each for each in msgspec.structs.fields(type_)}
    unknown = f"unknown field; known are {', '.join(fields)}"
    found = [Violation(_join(path, shorten(name)), unknown) for name in raw if name not in fields]
    for name, each in fields.items():
        if name not in raw:
            if each.required:
                found.append(Violation(_join(path, name), "is required"))
            continue
        try:
            msgspec.convert(raw[name], each.type)
        except msgspec.ValidationError as error:
            inner = _violations(raw[name], _struct(each.type), _join(path, name))
            found += inner or [violation(error, _join(path, name), raw[name])]
    return found


def _struct(type_: Any) -> Any:
    """The message type inside `Message | None`."""
    return next((each for each in getattr(type_, "__args__", ()) if each is not type(None)), type_)


def violation(error: msgspec.ValidationError, path: str = "", value: Any = None) -> Violation:
    """Return what msgspec found wrong, at `path` or inside of it. Nothing of the request is repeated at length."""
    message, _, inner = str(error).partition(" - at `$")
    if message.startswith("Invalid enum value"):
        message = f"Expected {', '.join(RANGES[:-1])} or {RANGES[-1]}"  # the one enumeration there is
    expected = shorten((message[:1].lower() + message[1:]).replace("`", "").replace(", got ", ", found "), 200)
    found = f", found {_shown(value)}" if "found" not in expected and isinstance(value, str | int | float) else ""
    return Violation(shorten(f"{path}{inner.rstrip('`')}".lstrip("."), 200) or "$", expected + found)


def _shown(value: str | float) -> str:
    return repr(shorten(value)) if isinstance(value, str) else shorten(repr(value))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
