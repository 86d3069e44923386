"""The commands that query the models of a bundle: classify, recommend, similar."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from musix_runtime.cli.arguments import AS_JSON, BUNDLE
from musix_runtime.cli.output import print_json, print_line
from musix_runtime.errors import InputError
from musix_runtime.input_file import read_input

if TYPE_CHECKING:
    from musix_runtime.engine import Engine

# Those of schemas.py, which takes long to import.
MAX_LIMIT, MAX_HOUR = 100, 23
TIME_RANGES = ("short_term", "medium_term", "long_term")
LIMIT = click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=10, show_default=True, help="Number of tracks."
)


@click.command()
@BUNDLE
@click.argument("track_id", required=False)
@click.option("--features", help='The 12 audio features as JSON: {"danceability": 0.5, ...}, or @FILE.')
@click.option("--artist", "artists", multiple=True, help="Name of an artist; repeat it for several.")
@click.option("--name", help="Title of the track.")
@click.option("--duration-ms", type=int, help="Length in milliseconds.")
@click.option("--popularity", type=float, help="Popularity, 0 to 100.")
@click.option("--explicit/--not-explicit", default=None, help="Whether the lyrics are explicit.")
@AS_JSON
def classify(bundle: Path, track_id: str | None, features: str | None, as_json: bool, **fields: Any) -> None:
    """Predict genre and mood of a track.

    The track is TRACK_ID of the catalogue, or one described by --features.
    """
    from musix_runtime.schemas import ClassifyRequest

    if track_id is None and features is None:
        raise InputError("musix classify: expected TRACK_ID or --features, found neither")
    fields["artists"] = list(fields["artists"]) or None
    raw = {_camel(key): value for key, value in fields.items()}
    raw |= {"trackId": track_id, "audioFeatures": _json_argument(features)}
    response = _open(bundle).classify(_request(raw, ClassifyRequest))
    if as_json:
        print_json(response)
        return
    for genre in response.genres:
        print_line(f"{genre.confidence:6.1%}  {genre.name}")
    moods = sorted(response.mood.probabilities.items(), key=lambda item: -item[1])
    print_line("mood: " + ", ".join(f"{name} {share:.0%}" for name, share in moods))


@click.command()
@BUNDLE
@click.argument("user_id")
@click.option("--current", "current_track_id", help="Id of the track that is playing now.")
@LIMIT
@click.option("--exclude", "exclude_ids", multiple=True, help="Id of a track to leave out; repeat it for several.")
@click.option(
    "--history", multiple=True, help="Id of a track that an unknown listener has heard; repeat it for several."
)
@click.option("--time-range", type=click.Choice(TIME_RANGES), default="medium_term", show_default=True)
@click.option("--hour", type=click.IntRange(0, MAX_HOUR), help="Hour of the day in UTC.")
@AS_JSON
def recommend(bundle: Path, hour: int | None, as_json: bool, **fields: Any) -> None:
    """Recommend the next tracks to listener USER_ID."""
    from musix_runtime.schemas import RecommendRequest

    raw = {_camel(key): list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
    response = _open(bundle).recommend(_request(raw | {"context": {"hour": hour}}, RecommendRequest))
    if response.unknown_ids:
        print_line(f"warning: not in the catalogue: {', '.join(response.unknown_ids)}", error=True)
    if as_json:
        print_json(response)
        return
    print_line(f"source: {response.source}")
    for track in response.recommendations:
        print_line(
            f"{track.score:.3f}  {track.artist} - {track.name}  [{', '.join(track.genre)}; {track.mood}]  {track.id}"
        )
        print_line(f"       {track.reason}")


@click.command()
@BUNDLE
@click.argument("track_id")
@LIMIT
@AS_JSON
def similar(bundle: Path, track_id: str, limit: int, as_json: bool) -> None:
    """Find the tracks most similar to TRACK_ID."""
    from musix_runtime.schemas import SimilarRequest

    response = _open(bundle).similar(_request({"trackId": track_id, "limit": limit}, SimilarRequest))
    if as_json:
        print_json(response)
        return
    for track in response.tracks:
        print_line(f"{track.similarity:.3f}  {track.artist} - {track.name}  {track.id}")


def _open(bundle: Path) -> "Engine":
    from musix_runtime.engine import Engine

    return Engine.open(bundle)


def _request(raw: dict[str, Any], type_: type[Any]) -> Any:
    from musix_runtime.parsing import parse

    return parse({key: value for key, value in raw.items() if value is not None}, type_)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


def _json_argument(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(read_input(Path(text[1:])) if text.startswith("@") else text)
    except (InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = f"--features {text}" if text.startswith("@") else "--features"
        raise InputError(f"{place}: expected a JSON object or @FILE, found: {error}") from error
