"""Types of requests and responses, for the library, the command line and HTTP."""

from datetime import date
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from musix_runtime.bundle.manifest import Feature
from musix_runtime.errors import FieldError
from musix_runtime.models import features

BATCH_LIMIT = 1000
TEXT_LIMIT = 1000
LIST_LIMIT = 10_000

TimeRange = Literal["short_term", "medium_term", "long_term"]
TIME_RANGES = get_args(TimeRange)
Variant = Literal["control", "treatment"]
Action = Literal["shown", "played", "skipped", "saved", "clicked"]
ACTIONS = get_args(Action)
TrainedModel = Literal["all"]
TRAINED_MODELS = get_args(TrainedModel)

Id = Annotated[str, Meta(min_length=1, max_length=TEXT_LIMIT)]
Limit = Annotated[int, Meta(ge=1, le=100)]


def _number(feature: Feature) -> Any:
    return Annotated[float, Meta(ge=feature.low, le=feature.high, description=feature.unit)]


_Text = Annotated[str, Meta(max_length=TEXT_LIMIT)]
_Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]

# The 12 audio features with Spotify's names, all required. The other fields of Spotify's object are accepted too, so
# that clients can send the whole object; only the duration of them is used.
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
    """Base of the requests. Unknown fields are errors, so misspelt fields are reported."""


class ClassifyRequest(Request, frozen=True):
    """Request for genre and mood of a track. Missing fields are taken from the catalogue, if the track is in it."""

    track_id: Id | None = None
    audio_features: AudioFeatures | None = None  # type: ignore[valid-type]
    artists: Annotated[list[_Text], Meta(max_length=100)] | None = None
    name: _Text | None = None
    duration_ms: _Milliseconds | None = None
    popularity: Annotated[float, Meta(ge=0, le=100)] | None = None
    explicit: bool | None = None


class Context(Request, frozen=True):
    """The listener's situation. The hour is in UTC, like the hours of the feedback that the ranker was trained on."""

    hour: Annotated[int, Meta(ge=0, le=23)] | None = None


_Names = Annotated[list[_Text], Meta(min_length=1, max_length=100)]


class Filters(Request, frozen=True):
    """What all tracks of a list have: any of the genres, a most probable mood that is any of the moods, explicit lyrics
    or none, and a release date that is known and on this day or later."""

    genres: _Names | None = None
    moods: _Names | None = None
    explicit: bool | None = None
    released_after: date | None = None


class RecommendRequest(Request, frozen=True):
    """Request for the next tracks of a listener."""

    user_id: Id
    current_track_id: Id | None = None
    limit: Limit = 10
    exclude_ids: Annotated[list[_Text], Meta(max_length=LIST_LIMIT)] = field(default_factory=list)
    time_range: TimeRange = "medium_term"
    history: Annotated[list[_Text], Meta(max_length=LIST_LIMIT)] | None = None
    context: Context = field(default_factory=Context)
    max_per_artist: Annotated[int, Meta(ge=1, le=100)] | None = None  # in each ten tracks
    include_heard: bool = False
    filters: Filters | None = None


class AssignRequest(Request, frozen=True):
    """Request for the variant of a listener."""

    user_id: Id


class SimilarRequest(Request, frozen=True):
    """Request for the tracks that are most similar to a track."""

    track_id: Id
    limit: Limit = 10
    filters: Filters | None = None


class Response(Struct, frozen=True, rename="camel"):
    """Base of the responses and their parts."""


class GenreConfidence(Response, frozen=True):
    """A genre and its calibrated confidence: the expected share of correct predictions."""

    name: str
    confidence: float


class MoodPrediction(Response, frozen=True):
    """The most probable mood, and the probability of each mood."""

    primary: str
    probabilities: dict[str, float]


class ClassifyResponse(Response, frozen=True):
    """The five most probable genres, best first, and the mood.

    `evidence` is what the genres are based on: artist (one that the model knows), title (read where no artist is
    known), audio, popularity, duration, explicit.
    """

    genres: list[GenreConfidence]
    mood: MoodPrediction
    timestamp: str
    evidence: list[str] = field(default_factory=list)


class Cause(Response, frozen=True):
    """A heard track, or the current one, that speaks for a recommendation, and its share in what speaks for it."""

    id: str
    name: str
    artist: str
    share: float


class Recommendation(Response, frozen=True):
    """A track, its score in 0..1 and the reason. `contributions`, which include their `base`, sum to the score.
    `because` has the heard tracks that speak most for it, `position` is the place in the list, from 1 on."""

    id: str
    name: str
    artist: str
    score: float
    reason: str
    contributions: dict[str, float]
    because: list[Cause]
    genre: list[str]
    mood: str
    position: int


class RecommendResponse(Response, frozen=True):
    """Tracks, best first. `source`: hybrid, collab, history, content or popular. `unknown_ids` are the ids of the
    current track and the history that are not in the catalogue. `list_id` identifies the list in events, if the server
    has a feedback store; `variant` is that of the user in the running experiment, if there is one."""

    recommendations: list[Recommendation]
    source: str
    unknown_ids: list[str]
    generated_at: str
    list_id: str | UnsetType = UNSET
    variant: Variant | UnsetType = UNSET


class AssignResponse(Response, frozen=True):
    """The running experiment, NAME/NUMBER, and the variant of the listener; both null while none is running."""

    experiment: str | None
    variant: Variant | None


class SimilarTrack(Response, frozen=True):
    """A track, and the cosine similarity between its content vector and that of the requested track."""

    id: str
    name: str
    artist: str
    similarity: float


class SimilarResponse(Response, frozen=True):
    """The nearest tracks, best first."""

    tracks: list[SimilarTrack]


class BundleIdentity(Struct, frozen=True):
    """Name, version and digest of a bundle."""

    name: str
    version: str
    digest: str


class LoadFailure(Struct, frozen=True):
    """The version of a bundle that was refused (null if unknown), and the kind of the error."""

    version: str | None
    error: str


class HealthResponse(Struct, frozen=True):
    """The state of the process, and the number of its models."""

    status: str
    models_loaded: int


class ReadyResponse(Struct, frozen=True):
    """The served bundle, and the failure to load a newer one."""

    status: str
    name: str
    version: str
    digest: str
    failed: LoadFailure | UnsetType = UNSET


class ErrorInfo(Struct, frozen=True):
    """The error of a response: its code, a sentence, and the wrong fields of the request."""

    code: str
    message: str
    details: list[FieldError]
