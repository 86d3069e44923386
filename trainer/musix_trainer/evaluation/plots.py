"""Plots of a run for the report and the notebooks. Each function returns one figure."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.mood import MOODS
from musix_trainer import curves
from musix_trainer.curves import Curve, Point
from musix_trainer.data.tracks import Tracks
from musix_trainer.evaluation import metrics
from musix_trainer.models.mood_targets import rule
from musix_trainer.run import Run

sns.set_theme(style="whitegrid", context="notebook")
MAX_PLOTTED = 20_000  # recordings in a distribution
MAX_COLUMNS = 3  # panels beside each other
COLOUR = sns.color_palette("deep")[0]


def learning_curves(points: Sequence[Point]) -> Figure:
    """Plot the curves of each part in a panel; losses and other metrics have panels of their own."""
    panels_by_title: dict[str, list[Curve]] = {}
    for curve in curves.curves(points):
        part, metric, _ = curve
        kind = "loss" if metric.endswith("loss") else metric
        panels_by_title.setdefault(f"{part}: {kind}", []).append(curve)
    columns = min(len(panels_by_title), MAX_COLUMNS)
    lines = -(-len(panels_by_title) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(4 * columns, 3.2 * lines), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(panels_by_title) :]:
        panel.set_axis_off()
    for panel, (title, group) in zip(panels.flat, panels_by_title.items(), strict=False):
        for _, metric, measured in group:
            panel.plot([point.step for point in measured], [point.value for point in measured], label=metric)
        panel.set(title=title, xlabel="step")
        panel.legend(frameon=False)
    return _closed(figure)


def distributions(catalogue: Tracks) -> Figure:
    """Plot a histogram of each of the 12 audio features."""
    figure, panels = plt.subplots(3, 4, figsize=(12, 7.5), layout="constrained")
    for panel, name, values in zip(panels.flat, AUDIO_NAMES, catalogue.inputs.T, strict=False):
        sns.histplot(values, bins=40, ax=panel, color=COLOUR, edgecolor="none")
        panel.set(title=name, xlabel="", ylabel="")
    figure.supylabel("recordings")
    return _closed(figure)


def violins(
    catalogue: Tracks, names: tuple[str, ...] = ("energy", "valence", "danceability", "acousticness")
) -> Figure:
    """Plot distributions of audio features by family; a recording of several families counts in the first of them."""
    catalogue = catalogue.with_family()
    rows = _sample(len(catalogue))
    families = np.array(catalogue.labels)[catalogue.families[rows].argmax(axis=1)]
    figure, panels = plt.subplots(len(names), 1, figsize=(12, 2.6 * len(names)), sharex=True, layout="constrained")
    for panel, name in zip(panels, names, strict=True):
        values = catalogue.inputs[rows, AUDIO_NAMES.index(name)]
        sns.violinplot(x=families, y=values, order=catalogue.labels, ax=panel, color=COLOUR, cut=0, inner=None)
        panel.set(ylabel=name, xlabel="")
    panels[-1].tick_params(axis="x", rotation=45)
    return _closed(figure)


def correlations(catalogue: Tracks) -> Figure:
    """Plot the Pearson correlations of the audio features."""
    figure, panel = plt.subplots(figsize=(8.5, 7), layout="constrained")
    values = np.corrcoef(catalogue.inputs[:, : len(AUDIO_NAMES)].T)
    sns.heatmap(
        values,
        annot=True,
        fmt=".2f",
        vmin=-1,
        vmax=1,
        cmap="vlag",
        ax=panel,
        annot_kws={"size": 8},
        xticklabels=AUDIO_NAMES,
        yticklabels=AUDIO_NAMES,
    )
    panel.tick_params(axis="x", rotation=90)
    return _closed(figure)


def families(catalogue: Tracks) -> Figure:
    """Plot the number of recordings of each family."""
    return _bars(catalogue.labels, catalogue.families.sum(axis=0), "recordings")


def moods(run: Run) -> Figure:
    """Plot the number of recordings of each mood, by the rule and by the network."""
    audio = np.ascontiguousarray(run.catalogue.inputs[:, : len(AUDIO_NAMES)])
    moods = rule(audio)
    chosen = np.bincount(run.catalog.moods, minlength=len(MOODS))
    figure, panel = plt.subplots(figsize=(8, 3.6), layout="constrained")
    positions = np.arange(len(MOODS) + 1)
    panel.bar(positions - 0.2, [*moods.sum(axis=0), (~moods.any(axis=1)).sum()], 0.4, label="the rule")
    panel.bar(positions + 0.2, [*chosen, 0], 0.4, label="the network")
    panel.set_xticks(positions, [*MOODS, "none"])
    panel.set_ylabel("recordings")
    panel.legend(frameon=False)
    return _closed(figure)


def confusion(labels: list[str], confidence: Floats, truth: metrics.Truth) -> Figure:
    """Plot the share of each chosen family in each true one; any of a recording's labels is right."""
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    actual = np.where(right, chosen, truth.argmax(axis=1))
    counts = np.zeros((len(labels), len(labels)))
    np.add.at(counts, (actual, chosen), 1)
    figure, panel = plt.subplots(figsize=(10, 8.5), layout="constrained")
    sns.heatmap(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1),
        annot=True,
        fmt=".2f",
        vmin=0,
        vmax=1,
        cmap="Blues",
        ax=panel,
        annot_kws={"size": 7},
        xticklabels=labels,
        yticklabels=labels,
    )
    panel.set(xlabel="chosen", ylabel="family")
    panel.tick_params(axis="x", rotation=60)
    return _closed(figure)


def reliability(confidence: Floats, truth: metrics.Truth, bins: int = 15) -> Figure:
    """Plot the accuracy of the top choice by its confidence."""
    top = confidence.max(axis=1)
    right = truth[np.arange(len(truth)), confidence.argmax(axis=1)]
    cells = np.minimum((top * bins).astype(int), bins - 1)
    count = np.bincount(cells, minlength=bins)
    used = count > 0
    confidence_mean = np.bincount(cells, top, bins)[used] / count[used]
    accuracy = np.bincount(cells, right, bins)[used] / count[used]
    figure, (panel, below) = plt.subplots(
        2, 1, figsize=(6, 6.5), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    panel.plot([0, 1], [0, 1], "--", color="grey", label="perfect")
    panel.plot(confidence_mean, accuracy, "o-", color=COLOUR, label="top choice")
    panel.set(ylabel="right", xlim=(0, 1), ylim=(0, 1))
    panel.legend(frameon=False)
    below.bar((np.arange(bins) + 0.5) / bins, count, 0.9 / bins, color=COLOUR)
    below.set(xlabel="confidence", ylabel="recordings")
    return _closed(figure)


def popularity(run: Run) -> Figure:
    """Plot the share of all interactions that the most popular tracks have."""
    plays = np.sort(np.bincount(run.interactions.row))[::-1]
    plays = plays[plays > 0]
    figure, panel = plt.subplots(figsize=(6, 4), layout="constrained")
    panel.plot(np.arange(1, len(plays) + 1) / len(plays), np.cumsum(plays) / plays.sum(), color=COLOUR)
    panel.plot([0, 1], [0, 1], "--", color="grey")
    panel.set(xlabel="share of tracks, most popular first", ylabel="share of interactions", xlim=(0, 1), ylim=(0, 1))
    return _closed(figure)


def compared(metric: str, result: dict[str, Any], own: str) -> Figure:
    """Plot a metric with its interval and its baselines, best on top."""
    values = {f"{own} (ours)": result["value"], **result["baselines"]}
    names = sorted(values, key=lambda name: values[name])
    figure, panel = plt.subplots(figsize=(8, 0.8 + 0.3 * len(names)), layout="constrained")
    colours = [COLOUR if name.endswith("(ours)") else "lightgrey" for name in names]
    panel.barh(names, [values[name] for name in names], color=colours)
    low, high = result["value"] - result["low"], result["high"] - result["value"]
    panel.errorbar(result["value"], f"{own} (ours)", xerr=[[low], [high]], color="black", capsize=3)
    panel.set_xlabel(metric)
    return _closed(figure)


def tradeoff(results: dict[str, Any]) -> Figure:
    """Plot NDCG against the diversity and the coverage of lists, for growing weights of other goals."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for panel, metric, settings in (
        (panels[0], "diversity", ("diversity_weight", "content_weight")),
        (panels[1], "coverage_of_heard_at_10", ("novelty_bonus",)),
    ):
        for setting in settings:
            percents = sorted(int(name.split("_")[-2]) for name in results if name.startswith(f"{metric}_{setting}"))
            x, y = (
                [results[f"{each}_{setting}_{percent}_percent"]["value"] for percent in percents]
                for each in (metric, "ndcg_at_10")
            )
            panel.plot(x, y, "o-", label=setting)
            for percent, *point in zip(percents, x, y, strict=True):
                panel.annotate(f"{percent} %", point, textcoords="offset points", xytext=(4, 6), fontsize=9)
        panel.set_xlabel(metric)
    top = results["ndcg_at_10_novelty_bonus_0_percent"]["value"]
    panels[0].axvspan(0.45, 0.55, color="green", alpha=0.1, label="target")
    panels[1].axvspan(0.7, 1, color="green", alpha=0.1, label="target")
    panels[1].axhline(0.95 * top, color="grey", linestyle="--", label="5 % below no bonus")
    panels[0].set(ylabel="ndcg_at_10", ylim=(0, 1.15 * top))
    for panel in panels:
        panel.legend(frameon=False, loc="lower left")
    return _closed(figure)


def _bars(names: list[str], values: NDArray[Any], label: str) -> Figure:
    order = np.argsort(values)
    figure, panel = plt.subplots(figsize=(8, 0.8 + 0.28 * len(names)), layout="constrained")
    panel.barh([names[i] for i in order], values[order], color=COLOUR)
    panel.set_xlabel(label)
    return _closed(figure)


def _sample(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_PLOTTED)).astype(np.int64))


def _closed(figure: Figure) -> Figure:
    """Close the figure in pyplot, which would show it a second time in a notebook, and return it."""
    plt.close(figure)
    return figure
