import pytest

from musix_runtime import ClassifyRequest, RecommendRequest
from musix_runtime.errors import FieldError, RequestError
from musix_runtime.parsing import parse
from tests.features import FEATURES


def field_errors(raw: object, type_: type) -> list[FieldError]:
    with pytest.raises(RequestError) as caught:
        parse(raw, type_)
    return caught.value.field_errors


def test_request_error_has_the_paths_of_all_wrong_fields() -> None:
    raw = {"limit": 0, "exclude": [], "context": {"hour": 24}, "excludeIds": ["a", 7], "timeRange": "ever"}
    assert field_errors(raw, RecommendRequest) == [
        FieldError(
            "exclude",
            "unknown field; known are userId, currentTrackId, limit, excludeIds, timeRange, history, context,"
            " maxPerArtist, includeHeard, filters",
        ),
        FieldError("userId", "is required"),
        FieldError("limit", "expected int >= 1, found 0"),
        FieldError("excludeIds[1]", "expected str, found int"),
        FieldError("timeRange", "expected short_term, medium_term or long_term, found 'ever'"),
        FieldError("context.hour", "expected int <= 23, found 24"),
    ]


def test_audio_features_are_required_and_in_range() -> None:
    raw = {"audioFeatures": FEATURES | {"energy": 7, "tempo": "fast"}}
    del raw["audioFeatures"]["key"]
    assert field_errors(raw, ClassifyRequest) == [
        FieldError("audioFeatures.energy", "expected float <= 1.0, found 7"),
        FieldError("audioFeatures.key", "is required"),
        FieldError("audioFeatures.tempo", "expected float, found str"),
    ]


def test_spotify_audio_features_object_is_accepted() -> None:
    extra = {
        "type": "audio_features",
        "id": "simulated0000000000001",
        "uri": "spotify:track:simulated0000000000001",
        "track_href": "https://api.spotify.com/v1/tracks/simulated0000000000001",
        "analysis_url": "https://api.spotify.com/v1/audio-analysis/simulated0000000000001",
        "duration_ms": 200_000,
    }
    assert parse({"audioFeatures": FEATURES | extra}, ClassifyRequest).audio_features.duration_ms == 200_000
    (result,) = field_errors({"audioFeatures": FEATURES | extra | {"mood": 1}}, ClassifyRequest)
    assert (result.path, result.message[:14]) == ("audioFeatures.mood", "unknown field;")


def test_request_that_is_not_an_object_is_refused() -> None:
    assert field_errors([], RecommendRequest) == [FieldError("$", "expected object, found array")]


def test_request_with_all_fields() -> None:
    request = parse(
        {"audioFeatures": FEATURES, "artists": ["A"], "durationMs": 1000, "explicit": True}, ClassifyRequest
    )
    assert request.audio_features.tempo == 120
    assert request.duration_ms == 1000
