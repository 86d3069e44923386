"""Figures of a quality card: values with intervals and baselines, and how they compare, in words."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Outcome = Literal["better", "worse", "equal", "unknown"]
HIGHER = re.compile(r"(macro_f1|hit_at_|hr_at_|ndcg_at_|recall_at_|precision_at_|r_precision|lrap|agreement)")
LOWER = re.compile(r"ece(_|$)")
# The metrics that stand for a protocol, the most telling first.
HEADLINES = ("macro_f1", "ndcg_at_10", "hr_at_10", "hit_at_1", "ece", "agreement", "coverage_at_10", "diversity")
N_FIRST = 6
WORDS = {
    "ndcg": "NDCG",
    "hr": "hit rate",
    "ece": "ECE",
    "lrap": "LRAP",
    "macro f1": "macro-F1",
    "xgboost": "XGBoost",
    "lightfm": "LightFM",
}


class Interval(msgspec.Struct, frozen=True):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Figure(msgspec.Struct, frozen=True):
    """A metric of a protocol: its value, its 95 % interval (None if it was not measured), the values of the baselines,
    and the paired differences to them."""

    value: float
    low: float | None = None
    high: float | None = None
    baselines: dict[str, float] = {}
    better_by: dict[str, Interval] = {}

    @property
    def rivals(self) -> dict[str, float]:
        """The baselines without the ablations of the model, `without_...`."""
        return {name: value for name, value in self.baselines.items() if not name.startswith("without_")}

    def text(self) -> str:
        """Return the value, with its interval if there is one."""
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Comparison(msgspec.Struct, frozen=True):
    """The value of a figure beside that of its best baseline; `difference` is None if no paired one was measured."""

    outcome: Outcome
    own: float
    baseline: str
    value: float
    difference: Interval | None

    def text(self) -> str:
        """Return the comparison as the end of a sentence."""
        beside = f"the best baseline, {in_words(self.baseline)} ({self.value:.3f})"
        if self.difference is None:
            side = "above" if self.own > self.value else "below" if self.own < self.value else "equal to"
            return f"{side} {beside}; without an interval, so the difference may be chance"
        interval = (
            f"{self.difference.value:+.3f}, 95 % interval {self.difference.low:+.3f} to {self.difference.high:+.3f}"
        )
        if self.outcome == "equal":
            return f"not measurably different from {beside}: {interval}, includes 0"
        return f"{self.outcome} than {beside}: {interval}, excludes 0"


Protocols = dict[str, dict[str, Figure]]  # by PART/PROTOCOL and metric


def protocols(quality: Mapping[str, Any]) -> Protocols:
    """Return the results of `musix evaluate` in a quality card; what is not a figure is left out."""
    found: Protocols = {}
    for part, by_protocol in _items(quality.get("evaluation")):
        for protocol, metrics in _items(by_protocol):
            figures = {name: figure for name, each in _items(metrics) if (figure := _figure(each))}
            if figures:
                found[join(part, protocol)] = figures
    return found


def join(part: str, protocol: str) -> str:
    """Return PART/PROTOCOL, or PART alone for a part whose only protocol has no name of its own."""
    return f"{part}/{protocol}" if protocol else part


def headlines(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Return up to `N_FIRST` metrics that stand for a protocol: those of `HEADLINES`, else variants of them."""
    exact = [name for name in HEADLINES if name in figures]
    variants = [name for start in HEADLINES for name in figures if name.startswith(f"{start}_")]
    return {name: figures[name] for name in (exact or variants or list(figures))[:N_FIRST]}


def compare(metric: str, figure: Figure) -> Comparison | None:
    """Return the comparison with the best baseline; None without any, or for a metric that is not better or worse.

    The class prior is no baseline of a calibration error: it is calibrated, and says nothing.
    """
    sign = direction(metric)
    rivals = {name: value for name, value in figure.rivals.items() if sign > 0 or name != "class_prior"}
    if not sign or not rivals:
        return None
    name = max(rivals, key=lambda each: sign * rivals[each])
    difference = figure.better_by.get(name)
    return Comparison(_outcome(sign, difference), figure.value, name, rivals[name], difference)


def direction(metric: str) -> int:
    """Return 1 if a larger value is better, -1 if a smaller one is, 0 if neither is."""
    return 1 if HIGHER.match(metric) else -1 if LOWER.match(metric) else 0


def in_words(name: str) -> str:
    """Return the name of a metric or baseline as people write it: "ndcg_at_10" becomes "NDCG@10"."""
    text = re.sub(r" at (\d+)", r"@\1", name.replace("_", " "))
    for word, better in WORDS.items():
        text = re.sub(rf"\b{word}\b", better, text)
    return text


def _outcome(sign: int, difference: Interval | None) -> Outcome:
    if difference is None:
        return "unknown"
    if difference.low <= 0 <= difference.high:
        return "equal"
    return "better" if sign * difference.value > 0 else "worse"


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _figure(value: Any) -> Figure | None:
    try:
        return msgspec.convert(value, Figure)
    except msgspec.ValidationError:
        return None
