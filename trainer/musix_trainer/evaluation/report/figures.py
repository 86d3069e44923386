"""Figures by protocol: a folded piece for each, with its metrics, its best baselines and all others."""

from collections.abc import Mapping
from typing import Any

from musix_runtime.inspection.figures import (
    Comparison,
    Figure,
    compare,
    headlines,
    in_words,
    join,
    protocols,
)
from musix_trainer.evaluation import evaluate, plots
from musix_trainer.evaluation.report.page import folded, image, table, text

OWN = {"genre": "ensemble", "mood": "network", "collab": "LightFM", "catalogue": "drift test"}  # else the recommender
MARKS = {"better": "better", "worse": "worse", "equal": "not different", "unknown": "no interval"}
N_ROWS = 8  # metrics of a protocol that are shown at once; the others are folded


def by_protocol(results: Mapping[str, Any]) -> str:
    """Return the results of `musix evaluate`, by part and protocol."""
    measured = protocols({"evaluation": results})
    if not measured:
        return "<p>No results yet: run <code>musix evaluate RUN</code>.</p>"
    pieces = [
        "<p>95 % intervals, bootstrapped over artists, listeners or samples. A difference is paired; it is called"
        " better or worse only if its interval excludes 0.</p>"
    ]
    for part, each in sorted(results.items(), key=lambda item: item[0] == "catalogue"):  # which is no model
        pieces.append(f"<h3>{text(part)}</h3>")
        pieces += [_protocol(name, measured[name], each[key]) for key in each if (name := join(part, key)) in measured]
    return "".join(pieces)


def _protocol(name: str, figures: Mapping[str, Figure], results: dict[str, Any]) -> str:
    shown = headlines(figures)
    metric = next(iter(shown))
    own = OWN.get(name.partition("/")[0], "hybrid")
    pieces = [_rows(shown)]
    if figures[metric].baselines and compare(metric, figures[metric]):
        plot = plots.compared(in_words(metric), results[metric], own)
        pieces.append(image(plot, f"{in_words(metric)} of {name}, beside the baselines"))
    if name == "hybrid/tradeoff":
        pieces.append(image(plots.tradeoff(results), "NDCG@10 against diversity and coverage"))
    pieces += [f'<p class="note">{text(each)}</p>' for each in evaluate.redundant_components(results)]
    others = {each: figure for each, figure in figures.items() if each not in shown}
    for start in range(0, len(others), N_ROWS):
        names = list(others)[start : start + N_ROWS]
        summary = f"{in_words(names[0])} to {in_words(names[-1])}" if len(names) > 1 else in_words(names[0])
        pieces.append(folded(text(summary), _rows({each: others[each] for each in names})))
    pieces.append(folded("all baselines and ablations", models_table(own, figures)))
    return folded(_summary(name, metric, figures[metric]), *pieces)


def _summary(name: str, metric: str, figure: Figure) -> str:
    comparison = compare(metric, figure)
    mark = f" {_mark(comparison)}" if comparison else ""
    return f"<b>{text(name)}</b> {text(in_words(metric))} {text(figure.text())}{mark}"


def _mark(comparison: Comparison) -> str:
    beside = f"{MARKS[comparison.outcome]}: {in_words(comparison.baseline)} {comparison.value:.3f}"
    return f'<span class="{comparison.outcome}">{text(beside)}</span>'


def _rows(figures: Mapping[str, Figure]) -> str:
    """Return a table of metrics, each with the best baseline and the difference to it."""
    rows = []
    for metric, figure in figures.items():
        comparison = compare(metric, figure)
        beside: tuple[str, ...] = ("", "", "")
        if comparison:
            difference = comparison.difference
            interval = (
                f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})" if difference else ""
            )
            beside = f"{in_words(comparison.baseline)} {comparison.value:.3f}", interval, MARKS[comparison.outcome]
        rows.append((in_words(metric), figure.text(), *beside))
    return table(("metric", "value, 95 % interval", "best baseline", "difference", ""), rows)


def models_table(own: str, figures: Mapping[str, Figure]) -> str:
    """Return a table with a row for each metric and a column for each model."""
    names = dict.fromkeys(name for figure in figures.values() for name in figure.baselines)
    head = ("metric", own, *(in_words(name) for name in names))
    rows = (
        (in_words(metric), figure.value, *(figure.baselines.get(name) for name in names))
        for metric, figure in figures.items()
    )
    return table(head, rows)
