"""The comparison of two bundles on what listeners chose later."""

import polars as pl
import pytest

from musix_runtime import Engine, RecommendRequest
from musix_runtime.engine import apply_policy
from musix_trainer.loop.backtest import Backtest, backtest

LISTENERS = [f"listener-{number:03d}" for number in range(0, 600, 6)]
NOTHING = pl.DataFrame(schema={"user_id": pl.String, "track_id": pl.String})


def listed(engine: Engine, listeners: list[str]) -> pl.DataFrame:
    """Return the second to fourth track of each listener's list as what they chose."""
    rows = [
        (user, track.id)
        for user in listeners
        for track in engine.recommend(RecommendRequest(user_id=user)).recommendations[1:4]
    ]
    return pl.DataFrame(rows, schema=NOTHING.schema, orient="row")


@pytest.mark.parametrize("better", ["live", "candidate"])
def test_the_bundle_that_foresees_what_listeners_choose_is_better(engine: Engine, better: str) -> None:
    popular = apply_policy(engine, "popular")
    bundles = (
        {"live": popular, "candidate": engine} if better == "candidate" else {"live": engine, "candidate": popular}
    )
    found = backtest(**bundles, heard=NOTHING, later=listed(engine, LISTENERS))
    assert found is not None
    assert found.listeners == len(LISTENERS)
    assert (found.fault is None) == (better == "candidate")
    assert (found.candidate > found.live) == (better == "candidate")
    assert found.low <= found.candidate - found.live <= found.high


def test_equal_bundles_pass(engine: Engine) -> None:
    found = backtest(engine, engine, NOTHING, listed(engine, LISTENERS))
    assert found is not None
    assert (found.low, found.high, found.fault) == (0, 0, None)
    assert found.live == pytest.approx((0.6309 + 0.5 + 0.4307) / (1 + 0.6309 + 0.5), abs=1e-3)  # ranks 2 to 4


def test_what_was_heard_or_is_unknown_does_not_count(engine: Engine) -> None:
    chosen = listed(engine, LISTENERS)
    unknown = chosen.with_columns(track_id=pl.lit("unknown"))
    assert backtest(engine, engine, chosen, pl.concat([chosen, unknown])) is None
    assert backtest(engine, engine, NOTHING, listed(engine, LISTENERS[:49])) is None


@pytest.mark.parametrize(
    ("listeners", "low", "high", "fault"),
    [
        (252, -0.03, -0.01, "expected an interval that reaches 0"),
        (5000, -0.10, -0.01, "expected an interval that reaches 0"),
        (5000, -0.06, 0.01, "expected at least -0.0500"),
        (252, -0.06, 0.01, None),
        (5000, -0.04, 0.01, None),
    ],
)
def test_the_fault_is_the_rule_that_refused(listeners: int, low: float, high: float, fault: str | None) -> None:
    assert Backtest(listeners, 0.2, 0.2, low, high).fault == fault
