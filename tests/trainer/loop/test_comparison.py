"""Comparison of variants: intervals that hold at every look, and a published study."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musix_trainer.loop.comparison import (
    POWER,
    Difference,
    Estimate,
    Sums,
    compare,
    detectable,
    estimate,
    heaviest,
    multiplier,
    ratio,
    sample_ratio_evidence,
)

# Stage 3 of SiTunes (CHIIR 2024): ratings of tracks by ten listeners, each of whom got both policies. For each listener
# the ratings of at least 4 and all ratings, of Random and of Situ-MT.
SITUNES = np.array(
    [
        (6, 14, 9, 15),
        (0, 4, 5, 20),
        (4, 19, 8, 19),
        (3, 15, 10, 13),
        (3, 14, 6, 15),
        (4, 20, 8, 19),
        (4, 16, 10, 15),
        (4, 17, 11, 18),
        (18, 28, 15, 26),
        (5, 16, 10, 15),
    ],
    float,
)
EXPERIMENTS, DAYS, LISTENERS = 2000, 14, 400


def sums(treated, numerator, denominator, before=None, listener=None):
    count = len(treated)
    return Sums(
        np.arange(count) if listener is None else listener,
        np.asarray(treated, bool),
        np.asarray(numerator, float),
        np.asarray(denominator, float),
        np.zeros(count) if before is None else before,
    )


def test_compare_the_policies_of_a_published_study():
    control, treatment = SITUNES[:, :2], SITUNES[:, 2:]
    both = np.vstack([control, treatment])
    found = compare(sums([False] * 10 + [True] * 10, *both.T, listener=np.tile(np.arange(10), 2)), planned=10)
    assert (found.control, found.treatment) == (pytest.approx(51 / 163), pytest.approx(92 / 175))
    assert found.value == pytest.approx(0.213, abs=5e-4)
    assert found.low < 0.084  # the fixed-size interval of a bootstrap by listener is 0.084 to 0.342
    assert found.high > 0.342


def test_multiplier_of_the_planned_size():
    """A fixed-size interval of 0.103 at 338 ratings of 340 becomes 0.159."""
    assert 0.103 * multiplier(338, 340) / 1.96 == pytest.approx(0.159, abs=1e-3)
    assert multiplier(340, 340) == pytest.approx(
        min(multiplier(340, planned) for planned in range(100, 1000)), abs=1e-2
    )


def test_many_events_of_few_listeners_are_not_sure():
    """The same 10 listeners a hundred times are as sure as once."""
    treated, numerator = [True, False] * 5, [3, 1, 2, 2, 4, 1, 2, 3, 3, 1]
    once, often = (compare(sums(treated, np.multiply(numerator, k), np.full(10, 5 * k)), 10) for k in (1, 100))
    assert often.high - often.low == pytest.approx(once.high - once.low)


@given(
    others=st.lists(st.integers(1, 1000) | st.integers(1, 3), min_size=3, max_size=200),
    seed=st.integers(0, 10**9),
    before=st.integers(1, 10**9),
    after=st.integers(1, 10**9),
)
def test_one_listener_of_n_moves_a_ratio_by_two_in_n_at_most(others, seed, before, after):
    """Whatever a listener sends, and whatever the others sent: they skip all tracks or none."""
    skipped = others * np.random.default_rng(seed).integers(0, 2, len(others))
    first, second = np.append(others, float(before)), np.append(others, float(after))
    without, _ = ratio(np.append(skipped, 0), first, heaviest(first))
    with_all, _ = ratio(np.append(skipped, after), second, heaviest(second))
    assert abs(with_all - without) <= 2 / len(first) + 1e-9


@given(st.lists(st.integers(1, 5) | st.integers(1, 10**6), min_size=1, max_size=100))
def test_no_listener_of_n_has_more_than_two_in_n_of_the_weight(denominator):
    denominator = np.array([*denominator, 0], float)
    bound = heaviest(denominator)
    cut = np.minimum(denominator, bound)
    assert cut.max() <= 2 * cut.sum() / (len(denominator) - 1) * (1 + 1e-9)
    if denominator.max() > bound:
        assert bound == pytest.approx(2 * cut.sum() / (len(denominator) - 1))


def test_one_listener_decides_no_comparison():
    """One of 100 listeners of the treatment skips ten thousand tracks: they count as twice the mean of all."""
    treated, started = np.arange(200) < 100, np.full(200, 4)
    skipped = np.arange(200) % 5
    skipped[0], started[0] = 10_000, 10_000
    found = compare(sums(treated, skipped, started), 200)
    bound = 2 * 199 * 4 / 198
    assert found.treatment == pytest.approx((skipped[1:100].sum() + bound) / (99 * 4 + bound))
    assert found.low <= 0 <= found.high


def test_an_interval_ends_where_a_difference_of_rates_does():
    found = compare(sums([True, True, False, False], [1, 2, 0, 1], [2, 2, 2, 2]), planned=10_000)
    assert (found.low, found.high) == (-1, 1)
    assert estimate(np.array([0.0, 2.0, 2.0, 0.0]), np.array([2.0, 2.0, 2.0, 0.0])) == Estimate(
        pytest.approx(2 / 3), 0, 1, 3
    )


def test_no_difference_can_be_planned_for_without_a_spread():
    assert detectable(sums([True, False], [0, 0], [5, 5]), 100, 0.5) is None
    assert detectable(sums([True, False], [0, 0], [0, 0]), 100, 0.5) is None


@pytest.mark.parametrize(
    ("treated", "denominator"), [([], []), ([True], [3]), ([True, True], [3, 3]), ([True, False], [3, 0])]
)
def test_compare_too_few_listeners(treated, denominator):
    assert compare(sums(treated, np.zeros(len(treated)), denominator), planned=100) is None


def test_what_was_known_before_is_no_certainty():
    """It explains all rates of 100 listeners: the interval has the width of the rule of three."""
    treated, skipped = np.arange(100) < 50, np.arange(100) % 2
    found = compare(sums(treated, skipped, np.ones(100), skipped - 0.5), planned=100)
    assert 0.06 < found.high - found.value < 0.12


@pytest.mark.parametrize("of_treatment", [0, 5])
def test_listeners_who_do_not_differ_are_not_sure(of_treatment):
    """Nobody of 100 on each side saved a track, or all of the treatment did: the interval has the width of the rule of
    three, about 3 of 100."""
    treated = np.arange(200) < 100
    found = compare(sums(treated, of_treatment * treated, np.full(200, 5)), planned=200)
    assert found.value == of_treatment / 5
    assert 0.03 < found.value - found.low < 0.06
    assert found.high == (1 if of_treatment else pytest.approx(-found.low))


def listeners(random, effect=0.0, share=0.5):
    """Return simulated listeners: variant, day of arrival, skips and plays of each day, and skips and plays before."""
    treated = random.random(LISTENERS) < share
    first_day = random.integers(0, DAYS // 2, LISTENERS)
    activity = random.gamma(1.5, 3, LISTENERS)
    rate = random.beta(4, 12, LISTENERS)
    plays = random.poisson(activity, (DAYS, LISTENERS)) * (np.arange(DAYS)[:, None] >= first_day)
    skips = random.binomial(plays, np.clip(rate + effect * treated, 0, 1))
    plays_before = random.poisson(activity * DAYS)
    return treated, first_day, skips.cumsum(0), plays.cumsum(0), random.binomial(plays_before, rate), plays_before


def at_day(day, treated, first_day, skips, plays, skips_before, plays_before):
    seen = first_day <= day
    _, before = ratio(skips_before, plays_before, heaviest(plays_before))
    return sums(treated[seen], skips[day, seen], plays[day, seen], before[seen])


def decided(found: Difference | None) -> bool:
    return found is not None and not found.low <= 0 <= found.high


def test_daily_looks_at_equal_variants_are_rarely_wrong():
    """At most 5 % of 2,000 simulated experiments without a difference ever show one, in daily looks from 50 on each
    side."""
    wrong = broken = 0
    for random in map(np.random.default_rng, range(EXPERIMENTS)):
        simulated = listeners(random)
        looks = [at_day(day, *simulated) for day in range(DAYS)]
        counts = [(int(look.treated.sum()), int((~look.treated).sum())) for look in looks]
        wrong += any(decided(compare(look, LISTENERS)) for look, n in zip(looks, counts, strict=True) if min(n) >= 50)
        broken += any(sample_ratio_evidence(*n, 0.5) >= 100 for n in counts)
    assert wrong <= 0.05 * EXPERIMENTS
    assert broken <= 0.01 * EXPERIMENTS


def test_few_heavy_listeners_with_other_rates_are_no_difference():
    """Half the listeners start one track, a few start hundreds, and those who start more skip less: in 100 experiments
    of 4,000 listeners without a difference, at most 5 show one."""
    wrong = 0
    for random in map(np.random.default_rng, range(100)):
        started = np.ceil(random.lognormal(0, 2, 4000))
        skipped = random.binomial(started.astype(int), np.select([started < 2, started < 4], [0.4, 0.3], 0.2))
        wrong += decided(compare(sums(random.random(4000) < 0.5, skipped, started), 4000))
    assert wrong <= 5


def test_planted_differences_are_found_with_the_planned_power():
    """The difference that was planned for is found in at least 80 % of the experiments, and most often not long before
    the planned number of listeners."""
    rounds = 300
    simulated = listeners(np.random.default_rng(7))
    effect = -detectable(at_day(DAYS - 1, *simulated), LISTENERS, 0.5)
    found = [
        compare(at_day(DAYS - 1, *listeners(np.random.default_rng(1000 + i), effect)), LISTENERS) for i in range(rounds)
    ]
    assert np.mean([each.high < 0 for each in found]) >= POWER
    assert np.mean([each.low <= effect <= each.high for each in found]) >= 0.95


def test_what_was_known_before_narrows_the_interval():
    simulated = listeners(np.random.default_rng(3))
    adjusted = at_day(DAYS - 1, *simulated)
    plain = replace(adjusted, before=np.zeros_like(adjusted.before))
    wide, narrow = compare(plain, LISTENERS), compare(adjusted, LISTENERS)
    assert narrow.high - narrow.low < 0.8 * (wide.high - wide.low)
    assert (narrow.control, narrow.treatment) == (wide.control, wide.treatment)


def test_sample_ratio():
    assert sample_ratio_evidence(0, 0, 0.2) == pytest.approx(1)
    assert sample_ratio_evidence(2_000, 8_000, 0.2) < 1
    assert sample_ratio_evidence(1_800, 8_200, 0.2) > 100
    assert math.isfinite(sample_ratio_evidence(900_000, 100_000, 0.2))
