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
class Rates:
    """The rate of each listener of a variant. All arrays have the shape (n,).

    A listener who saw both variants has a row of each, with the same number in `listener`.
    """

    listener: NDArray[np.int64]  # from 0 on
    treated: Bools
    rate: Floats  # from 0 to `largest`; NaN where there is none
    before: Floats  # what is known of the listener from the time before, of any scale; 0 where nothing is known
    largest: float = 1.0

    @property
    def known(self) -> "Rates":
        """The rows that have a rate."""
        rows = ~np.isnan(self.rate)
        return Rates(self.listener[rows], self.treated[rows], self.rate[rows], self.before[rows], self.largest)


@dataclass(frozen=True)
class Difference:
    """Treatment minus control of a mean rate, and the interval that holds it at every look."""

    control: float
    treatment: float
    value: float  # adjusted by what was known before, so it may differ from treatment - control
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The mean rate of some listeners, and the interval that holds it at every look."""

    value: float
    low: float
    high: float
    listeners: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f} %)"


def estimate(rates: Floats) -> Estimate | None:
    """Estimate the mean of the shares (n,) of listeners. Returns None for fewer than two listeners."""
    listeners = len(rates)
    if listeners < 2:
        return None
    value = float(rates.mean())
    half = multiplier(listeners, listeners) * float(rates.std(ddof=1)) / math.sqrt(listeners)
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), listeners)


def compare(rates: Rates, planned: int) -> Difference | None:
    """Compare the variants, with intervals that are narrowest when `planned` listeners were seen.

    Each listener has one rate, so none of n weighs more than 1/n, whatever the number of events. The contributions of a
    listener to both variants are added. CUPED takes out what `before` explains (Deng, Xu, Kohavi and Walker, WSDM
    2013). The interval ends where a difference of rates does. Returns None while a variant has no rates, or there are
    not two listeners.
    """
    known = rates.known
    listeners = len(np.unique(known.listener))
    if listeners < 2 or len(np.unique(known.treated)) < 2:
        return None
    control, treatment, errors = _difference(known, known.rate)
    before_control, before_treatment, explained = _difference(known, known.before)
    slope = errors @ explained / (explained @ explained) if explained.any() else 0.0
    value = treatment - control - slope * (before_treatment - before_control)
    variance = np.square(errors - slope * explained).sum() * listeners / (listeners - 1) + _unseen_variance(known)
    half = multiplier(listeners, planned) * math.sqrt(variance)
    low, high = max(value - half, -rates.largest), min(value + half, rates.largest)
    return Difference(control, treatment, float(value), float(low), float(high))


def _difference(rates: Rates, values: Floats) -> tuple[float, float, Floats]:
    """Return the means of control and treatment, and what each listener adds to the difference's error."""
    means, errors = [], np.zeros_like(values)
    for treated, sign in ((False, -1), (True, 1)):
        rows = rates.treated == treated
        means.append(float(values[rows].mean()))
        errors[rows] = sign * (values[rows] - means[-1]) / np.count_nonzero(rows)
    return means[0], means[1], np.bincount(rates.listener, errors).astype(np.float64)


def _unseen_variance(rates: Rates) -> float:
    """Return the variance of the variants whose listeners do not differ, which is no certainty: as if one listener of
    each had differed by 1. That is about the rule of three (Hanley and Lippman-Hand, JAMA 1983)."""
    variants = [rates.rate[rates.treated == treated] for treated in (False, True)]
    return sum(len(values) ** -2.0 for values in variants if np.allclose(values, values[0]))


def multiplier(seen: int, planned: int) -> float:
    """Return how many standard errors an interval reaches to each side, when `seen` of `planned` units were seen."""
    two_sided = -2 * math.log(ALPHA)
    scaled = seen * (two_sided + math.log(two_sided + 1)) / planned  # t rho^2 of the paper
    return math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / ALPHA))


def detectable(rates: Rates, planned: int, share: float) -> float | None:
    """Return the difference that is found with POWER by `planned` listeners, `share` of them in the treatment.

    The spread between listeners is that of `rates`, of both variants together; as is the share of those who have a
    rate. Returns None while no two rates differ.
    """
    known = rates.known.rate
    if not len(known) or np.allclose(known, known[0]):
        return None
    spread = float(known.std()) / math.sqrt(len(known) / len(rates.rate))
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
