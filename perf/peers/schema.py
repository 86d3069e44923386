"""The requests as pydantic models for the peers, with the fields of `musix_runtime.schemas`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Share = Annotated[float, Field(ge=0, le=1)]


class Audio(BaseModel):
    """The 12 audio features."""

    danceability: Share
    energy: Share
    key: Annotated[float, Field(ge=-1, le=11)]
    loudness: Annotated[float, Field(ge=-70, le=10)]
    mode: Share
    speechiness: Share
    acousticness: Share
    instrumentalness: Share
    liveness: Share
    valence: Share
    tempo: Annotated[float, Field(ge=0, le=300)]
    time_signature: Annotated[float, Field(ge=0, le=16)]


class Question(BaseModel):
    """Base of the requests, in camel case."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Classify(Question):
    """Request for genre and mood."""

    track_id: str | None = None
    audio_features: Audio | None = None
    artists: list[str] | None = None
    duration_ms: int | None = None
    popularity: float | None = None
    explicit: bool | None = None


class Context(Question):
    """The context of a request."""

    hour: Annotated[int, Field(ge=0, le=23)] | None = None


class Recommend(Question):
    """Request for recommendations."""

    user_id: str
    current_track_id: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 10
    exclude_ids: list[str] = []
    time_range: Literal["short_term", "medium_term", "long_term"] = "medium_term"
    history: list[str] | None = None
    context: Context = Context()
