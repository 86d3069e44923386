"""Comparison of two variants by listener, with intervals that hold at every look.

A fixed-size interval that is looked at daily is wrong a quarter of the time. These intervals are confidence sequences:
with probability 1 - ALPHA all of them hold the true value, however often one looks. They are narrowest at the planned
number of listeners (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and asymptotic
confidence sequences, Annals of Statistics 2024, equation 2 and appendix B.2).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
POWER = 0.8
HEAVIEST = 2.0  # times the mean weight of listeners: none has more
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sums:
    """The sums of a ratio metric, one row for each listener of a variant. All arrays have the shape (n,).

    A listener who saw both variants has a row of each, with the same number in `listener`.
    """

    listener: NDArray[np.int64]  # from 0 on
    treated: Bools
    numerator: Floats  # from 0 to `largest` times the denominator
    denominator: Floats  # 0 where nothing is known
    before: Floats  # what is known of the listener from the time before, of any scale; 0 where nothing is known
    largest: float = 1.0


@dataclass(frozen=True)
class Difference:
    """Treatment minus control of a ratio metric, and the interval that holds it at every look."""

    control: float
    treatment: float
    value: float  # adjusted by what was known before, so it may differ from treatment - control
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A ratio metric of some listeners, and the interval that holds it at every look."""

    value: float
    low: float
    high: float
    listeners: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f} %)"


def heaviest(denominator: Floats) -> float:
    """Return the bound at which denominators (n,) are cut so that no listener has more than HEAVIEST / n of all weight.

    That is HEAVIEST times the mean of the cut ones, a mean over those who have any. It changes little with any of them,
    unlike a quantile.
    """
    rising = np.sort(denominator[denominator > 0])
    count = len(rising)
    cut = np.arange(math.ceil(count / HEAVIEST))  # so many are cut, fewer than there can be at such a share
    largest_left, sum_left = rising[count - 1 - cut], rising.cumsum()[count - 1 - cut]
    bounds = HEAVIEST * sum_left / (count - HEAVIEST * cut)
    return float(bounds[np.argmax(largest_left <= bounds)])


def ratio(numerator: Floats, denominator: Floats, bound: float) -> tuple[float, Floats]:
    """Return the ratio of the sums of listeners (n,), and what each of them adds to its error (n,), by linearisation.

    A listener whose denominator is above `bound` counts as one at that bound, with the same rate. Expects a denominator
    that is not 0.
    """
    weight = np.minimum(1.0, bound / np.where(denominator > 0, denominator, bound))
    numerator, denominator = weight * numerator, weight * denominator
    total = denominator.sum()
    value = float(numerator.sum() / total)
    return value, (numerator - value * denominator) / total


def estimate(numerator: Floats, denominator: Floats) -> Estimate | None:
    """Estimate the share that listeners (n,) have together. Returns None for fewer than two listeners."""
    listeners = int(np.count_nonzero(denominator))
    if listeners < 2:
        return None
    value, errors = ratio(numerator, denominator, heaviest(denominator))
    half = multiplier(listeners, listeners) * math.sqrt(np.square(errors).sum() * listeners / (listeners - 1))
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), listeners)


def compare(sums: Sums, planned: int) -> Difference | None:
    """Compare the variants, with intervals that are narrowest when `planned` listeners were seen.

    The contributions of a listener to both variants are added, so a listener is the unit whatever the number of events
    and whichever variants they saw. CUPED takes out what `before` explains (Deng, Xu, Kohavi and Walker, WSDM 2013).
    The interval ends where a difference of rates does. Returns None while a variant has no data, or there are not two
    listeners.
    """
    known = sums.denominator > 0
    listeners = len(np.unique(sums.listener[known]))
    if listeners < 2 or len(np.unique(sums.treated[known])) < 2:
        return None
    bound = heaviest(sums.denominator)  # one of both variants, so that both are ratios of the same kind of listeners
    control, treatment, errors = _difference(sums, sums.numerator, sums.denominator, bound)
    before_control, before_treatment, explained = _difference(sums, sums.before, np.ones_like(sums.before), 1.0)
    slope = errors @ explained / (explained @ explained) if explained.any() else 0.0
    value = treatment - control - slope * (before_treatment - before_control)
    unexplained = errors - slope * explained
    variance = np.square(unexplained).sum() * listeners / (listeners - 1) + _unseen_variance(sums, unexplained)
    half = multiplier(listeners, planned) * math.sqrt(variance)
    low, high = max(value - half, -sums.largest), min(value + half, sums.largest)
    return Difference(control, treatment, float(value), float(low), float(high))


def _difference(sums: Sums, numerator: Floats, denominator: Floats, bound: float) -> tuple[float, float, Floats]:
    """Return the ratios of control and treatment, and what each listener adds to the difference's error."""
    ratios, errors = [], np.zeros_like(numerator)
    for treated, sign in ((False, -1), (True, 1)):
        rows = sums.treated == treated
        value, of_listeners = ratio(numerator[rows], denominator[rows], bound)
        ratios.append(value)
        errors[rows] = sign * of_listeners
    return ratios[0], ratios[1], np.bincount(sums.listener, errors).astype(np.float64)


def _unseen_variance(sums: Sums, unexplained: Floats) -> float:
    """Return the variance of the variants whose listeners do not differ, or only as explained, which is no certainty:
    as if one listener of each had differed by 1. That is about the rule of three (Hanley and Lippman-Hand, JAMA 1983).
    """
    rows = [(sums.treated == treated) & (sums.denominator > 0) for treated in (False, True)]
    rates = [sums.numerator[each] / sums.denominator[each] for each in rows]
    explained = np.allclose(unexplained, 0, atol=1e-12)
    return sum(len(values) ** -2.0 for values in rates if explained or np.allclose(values, values[0]))


def multiplier(seen: int, planned: int) -> float:
    """Return how many standard errors an interval reaches to each side, when `seen` of `planned` units were seen."""
    two_sided = -2 * math.log(ALPHA)
    scaled = seen * (two_sided + math.log(two_sided + 1)) / planned  # t rho^2 of the paper
    return math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / ALPHA))


def detectable(sums: Sums, planned: int, share: float) -> float | None:
    """Return the difference that is found with POWER by `planned` listeners, `share` of them in the treatment.

    The spread between listeners is that of `sums`, of both variants together. Returns None while no two of them differ.
    """
    if not sums.denominator.any():
        return None
    _, errors = ratio(sums.numerator, sums.denominator, heaviest(sums.denominator))
    if np.allclose(errors, 0):
        return None
    spread = math.sqrt(len(errors) * np.square(errors).sum())
    reach = multiplier(planned, planned) + NormalDist().inv_cdf(POWER)
    return reach * spread / math.sqrt(planned * share * (1 - share))


def sample_ratio_evidence(treatment: int, control: int, share: float) -> float:
    """Return the evidence that listeners were not assigned by `share`: 100 is reached by chance in 1 of 100
    experiments, however often one looks (Lindon and Malek, Anytime-valid inference for multinomial count data, 2022).
    """
    concentration = 100.0  # of the alternatives around `share`: narrow, as such faults are small
    first, second = concentration * share, concentration * (1 - share)
    log_mixture = _log_beta(first + treatment, second + control) - _log_beta(first, second)
    log_claimed = treatment * math.log(share) + control * math.log1p(-share)
    return math.exp(min(log_mixture - log_claimed, 700.0))


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)
