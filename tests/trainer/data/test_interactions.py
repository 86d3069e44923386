from datetime import UTC, datetime, time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from musix_runtime.errors import TableError
from musix_trainer.data import interactions, split, synthetic, tables
from musix_trainer.data.impressions import Impressions, read_impressions
from musix_trainer.data.interactions import Interactions, read_interactions
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import read_tracks
from musix_trainer.recipe import Split, Synthetic

WORLD = synthetic.generate(Synthetic(tracks=600, listeners=20), 1)
CATALOGUE = read_tracks(Table(WORLD.tracks, "tracks", ""))
A_TIME = "expected a time, such as 2026-01-31T20:00:00Z or seconds since 1970"
TRACK = synthetic.track_id


def read_columns(**columns: list[object]) -> tuple[Interactions, Table]:
    source = Table(pl.DataFrame(columns), "listening.csv", "")
    return read_interactions(source, CATALOGUE), source


def test_plays_are_summed_over_the_ids_of_a_recording() -> None:
    data, source = read_columns(
        user_id=["b", "a", "a", "a"],
        track_id=[TRACK(1), TRACK(0), f"spotify:track:{TRACK(600)}", "unknown"],
        plays=[1, 2, 3, 4],
    )
    assert data.names == ["a", "b"]
    assert data.listener.tolist() == [0, 1]
    assert data.plays.tolist() == [5, 1]
    assert source.notes["dropped: track not in the catalogue"] == 1


def test_links_and_uris_are_read_as_track_ids() -> None:
    data, source = read_columns(
        user_id=["a"] * 4,
        track_id=[
            f"https://open.spotify.com/track/{TRACK(0)}?si=0123456789abcdef",
            f"https://open.spotify.com/intl-de/track/{TRACK(0)}",
            f"spotify:track:{TRACK(0)}",
            f"https://open.spotify.com/album/{TRACK(0)}",
        ],
        plays=[1, 1, 1, 1],
    )
    assert data.plays.tolist() == [3]
    assert source.notes["dropped: track not in the catalogue"] == 1


@pytest.mark.parametrize(
    "times",
    [
        ["2024-05-01T12:00:00Z", "2024-05-02"],
        [datetime(2024, 5, 1, 12), datetime(2024, 5, 2)],
        [1714564800, 1714608000],
        ["1714564800", "2024-05-02 00:00:00"],
        ["2024-05-01T14:00:00+02:00", "2024-05-01 19:30-04:30"],
        ["2024-05-01 12:00", "2024-05-02T00:00:00.9 +00"],
    ],
)
def test_times_are_read_in_all_common_formats(times: list[object]) -> None:
    data, _ = read_columns(user_id=["a", "a"], track_id=[TRACK(1), TRACK(2)], timestamp=times)
    expected = [datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp(), datetime(2024, 5, 2, tzinfo=UTC).timestamp()]
    assert data.last.tolist() == expected
    assert data.plays.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["a"], "track_id": [TRACK(1)]}, "expected a column plays or timestamp"),
        (
            {"user_id": ["a"], "track_id": ["x"], "plays": [1]},
            "expected rows, found none: 1 names a track that is not in the catalogue, such as 'x'",
        ),
        ({"user_id": ["a"], "track_id": [TRACK(1)], "plays": [-1]}, "plays: expected 0..inf, found -1"),
        ({"user_id": ["a"], "track_id": [TRACK(1)], "timestamp": ["soon"]}, f"{A_TIME}, found 'soon' in row 1"),
        (
            {"user_id": ["a"], "track_id": [TRACK(1)], "timestamp": [1714564800000]},
            "seconds since 1970, found 1714564800000",
        ),
        ({"user_id": ["a\0"], "track_id": [TRACK(1)], "plays": [1]}, "user_id: expected at most 128 bytes without NUL"),
        ({"user_id": ["a" * 129], "track_id": [TRACK(1)], "plays": [1]}, "user_id: expected at most 128 bytes"),
        (
            {"user_id": ["a"], "track_id": [TRACK(1)], "timestamp": [time(1)]},
            f"timestamp: {A_TIME}, found type Time",
        ),
        ({"user_id": [["a"]], "track_id": [TRACK(1)], "plays": [1]}, "user_id: expected text, found type List"),
    ],
)
def test_invalid_interactions_are_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(TableError) as caught:
        read_columns(**columns)
    assert message in str(caught.value)


def test_split_by_time_keeps_only_what_is_heard_first_before_or_after_it() -> None:
    """Listener a hears one track again after the time, and another one first; listener b comes after it."""
    columns = {
        "user_id": ["a", "a", "a", "b"],
        "track_id": [TRACK(1), TRACK(1), TRACK(2), TRACK(1)],
        "timestamp": [100_000, 300_000, 300_000, 300_000],
    }
    source = Table(pl.DataFrame(columns), "listening.csv", "")
    data = read_interactions(source, CATALOGUE, before=200_000)
    assert data.names == ["a"]
    assert data.last.tolist() == [100_000, 300_000]
    assert data.plays.tolist() == [1, 1]
    assert source.notes["dropped: listener without plays before the split"] == 1
    assert source.notes["dropped: heard again since the split"] == 1
    without_times = Table(pl.DataFrame({"user_id": ["a"], "track_id": [TRACK(1)], "plays": [1]}), "listening.csv", "")
    with pytest.raises(TableError, match=r"listening\.csv: expected a column timestamp, as the recipe splits by time"):
        read_interactions(without_times, CATALOGUE, before=200_000)


def test_split_by_artist_keeps_artists_together_and_gives_each_listener_training_entries() -> None:
    data = read_interactions(Table(WORLD.listening, "listening", ""), CATALOGUE)
    artists = CATALOGUE.primary_artists()
    parts = split.split_interactions(data, artists, Split(by="artist", validation=0.2, test=0.2), 1)
    part_of: dict[tuple[int, str], int] = {}
    for listener, row, part in zip(data.listener, data.row, parts, strict=True):
        assert part_of.setdefault((listener, artists[row]), part) == part
    assert set(data.listener[parts == split.TRAIN]) == set(range(20))
    assert set(parts) == {split.TRAIN, split.VALIDATION, split.TEST}


def test_assign_gives_exact_shares() -> None:
    assert np.bincount(split.assign(1000, 0.1, 0.2, 0)).tolist() == [700, 100, 200]


def test_numeric_ids_in_a_csv_stay_text(tmp_path: Path) -> None:
    (tmp_path / "listening.csv").write_text(f"user_id,track_id,plays\n001,{TRACK(1)},2\n1,{TRACK(1)},3\n")
    data = read_interactions(tables.read(tmp_path / "listening.csv"), CATALOGUE)
    assert data.names == ["001", "1"]
    assert data.plays.tolist() == [2, 3]


def test_other_separators_than_commas_are_named(tmp_path: Path) -> None:
    for separator in (";", "\t"):
        rows = [["user_id", "track_id", "plays"], ["a", TRACK(1), "0,5"]]  # with a decimal comma
        (tmp_path / "listening.csv").write_text("\n".join(map(separator.join, rows)))
        with pytest.raises(TableError) as caught:
            tables.read(tmp_path / "listening.csv")
        assert str(caught.value).endswith(f"; separate the columns by commas, found {separator!r}")


def test_without_drops_impressions_of_training_pairs() -> None:
    data, _ = read_columns(user_id=["a", "b"], track_id=[TRACK(1), TRACK(2)], plays=[1, 1])
    impressions = Impressions(np.array([0, 0, 1]), np.array([1, 2, 2]), np.zeros(3, np.float32), np.ones(3, bool))
    assert impressions.without(data).row.tolist() == [2]


def test_read_impressions_joins_listeners_and_recordings() -> None:
    data = read_interactions(Table(WORLD.listening, "listening", ""), CATALOGUE)
    rows = [
        ("listener-000", TRACK(3), 1714572000, "skipped"),
        ("listener-000", TRACK(1), 1714568400, "saved"),
        ("x", TRACK(1), 1714568400, "played"),
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "track_id", "timestamp", "event"], orient="row")
    source = Table(frame, "feedback.csv", "")
    impressions = read_impressions(source, CATALOGUE, data)
    assert impressions.positive.tolist() == [True, False]
    assert impressions.hour.tolist() == [13, 14]
    assert source.notes["dropped: listener without listening"] == 1
    with pytest.raises(TableError, match="event: expected played, saved, clicked, skipped, found liked"):
        read_impressions(Table(frame.with_columns(event=pl.lit("liked")), "feedback.csv", ""), CATALOGUE, data)


def test_newest_then_most_played_tracks_of_a_long_history_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactions, "MAX_HISTORY", 3)
    data, source = read_columns(
        user_id=["a"] * 5 + ["b"],
        track_id=[TRACK(i) for i in (0, 1, 2, 3, 4, 0)],
        plays=[1, 9, 2, 3, 1, 1],
        timestamp=[f"2024-05-0{day}" for day in (5, 1, 2, 2, 2, 1)],
    )
    kept = [data.row[data.listener == 0].tolist(), data.row[data.listener == 1].tolist()]
    assert kept == [[0, 2, 3], [0]]
    assert source.notes["pairs dropped: beyond the newest 3 of a listener"] == 2
