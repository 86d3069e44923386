"""Comparison of two variants by listener, with intervals that hold at every look.

A fixed-size interval that is looked at daily is wrong a quarter of the time. These intervals are confidence sequences:
with probability 1 - ALPHA all of them hold the true value, however often one looks. They are narrowest at the planned
number of listeners (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and asymptotic
confidence sequences, Annals of Statistics 2024, equation 2 and appendix B.2).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

ALPHA = 0.05
POWER = 0.8
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sums:
    """The sums of a ratio metric, one row for each listener of a variant. All arrays have the shape (n,).

    A listener who saw both variants has a row of each, with the same number in `listener`.
    """

    listener: NDArray[np.int64]  # from 0 on
    treated: Bools
    numerator: Floats
    denominator: Floats
    before: Floats  # what is known of the listener from the time before, of any scale; 0 where nothing is known


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


def estimate(numerator: Floats, denominator: Floats) -> Estimate | None:
    """Estimate the ratio of the sums of both arguments, which have a value for each listener, of the shape (n,).

    Returns None for fewer than two listeners.
    """
    known = denominator > 0
    listeners = int(known.sum())
    if listeners < 2:
        return None
    total = denominator.sum()
    value = float(numerator.sum() / total)
    errors = (numerator - value * denominator) / total
    half = multiplier(listeners, listeners) * math.sqrt(np.square(errors).sum() * listeners / (listeners - 1))
    return Estimate(value, value - half, value + half, listeners)


def compare(sums: Sums, planned: int) -> Difference | None:
    """Compare the variants, with intervals that are narrowest when `planned` listeners were seen.

    The ratio of sums is linearised, and the contributions of a listener to both variants are added, so a listener is
    the unit whatever the number of events and whichever variants they saw. CUPED takes out what `before` explains
    (Deng, Xu, Kohavi and Walker, WSDM 2013). Returns None while a denominator is 0, or there are not two listeners.
    """
    listeners = len(np.unique(sums.listener))
    if listeners < 2 or min(sums.denominator[sums.treated == treated].sum() for treated in (False, True)) <= 0:
        return None
    control, treatment, errors = _difference(sums, sums.numerator, sums.denominator)
    before_control, before_treatment, explained = _difference(sums, sums.before, np.ones_like(sums.before))
    slope = errors @ explained / (explained @ explained) if explained.any() else 0.0
    value = treatment - control - slope * (before_treatment - before_control)
    variance = np.square(errors - slope * explained).sum() * listeners / (listeners - 1) + _unseen_variance(sums)
    half = multiplier(listeners, planned) * math.sqrt(variance)
    return Difference(control, treatment, float(value), float(value - half), float(value + half))


def _difference(sums: Sums, numerator: Floats, denominator: Floats) -> tuple[float, float, Floats]:
    """Return the ratios of sums of control and treatment, and what each listener adds to the difference's error."""
    ratios, errors = [], np.zeros_like(numerator)
    for treated, sign in ((False, -1), (True, 1)):
        rows = sums.treated == treated
        total = denominator[rows].sum()
        ratios.append(float(numerator[rows].sum() / total))
        errors[rows] = sign * (numerator[rows] - ratios[-1] * denominator[rows]) / total
    return ratios[0], ratios[1], np.bincount(sums.listener, errors).astype(np.float64)


def _unseen_variance(sums: Sums) -> float:
    """Return the variance of the variants whose listeners do not differ, which is no certainty: as if one listener of
    each had differed by 1. That is about the rule of three (Hanley and Lippman-Hand, JAMA 1983)."""
    variance = 0.0
    for treated in (False, True):
        rows = (sums.treated == treated) & (sums.denominator > 0)
        numerator, denominator = sums.numerator[rows], sums.denominator[rows]
        if np.allclose(numerator, numerator.sum() / denominator.sum() * denominator):
            variance += 1 / np.count_nonzero(rows) ** 2
    return variance


def multiplier(seen: int, planned: int) -> float:
    """Return how many standard errors an interval reaches to each side, when `seen` of `planned` units were seen."""
    two_sided = -2 * math.log(ALPHA)
    scaled = seen * (two_sided + math.log(two_sided + 1)) / planned  # t rho^2 of the paper
    return math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / ALPHA))


def detectable(sums: Sums, planned: int, share: float) -> float | None:
    """Return the difference that is found with POWER by `planned` listeners, `share` of them in the treatment.

    The spread between listeners is that of `sums`, of both variants together. Returns None while there are too few.
    """
    total, count = sums.denominator.sum(), len(sums.listener)
    if total <= 0 or count < 2:
        return None
    errors = (sums.numerator - sums.numerator.sum() / total * sums.denominator) / total
    spread = math.sqrt(count * np.square(errors).sum())
    reach = multiplier(planned, planned) + float(special.ndtri(POWER))
    return reach * spread / math.sqrt(planned * share * (1 - share))


def sample_ratio_evidence(treatment: int, control: int, share: float) -> float:
    """Return the evidence that listeners were not assigned by `share`: 100 is reached by chance in 1 of 100
    experiments, however often one looks (Lindon and Malek, Anytime-valid inference for multinomial count data, 2022).
    """
    concentration = 100.0  # of the alternatives around `share`: narrow, as such faults are small
    first, second = concentration * share, concentration * (1 - share)
    log_mixture = special.betaln(first + treatment, second + control) - special.betaln(first, second)
    log_claimed = treatment * math.log(share) + control * math.log1p(-share)
    return math.exp(min(float(log_mixture) - log_claimed, 700.0))
