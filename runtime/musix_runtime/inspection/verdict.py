"""Verdict: what a quality card says, in plain sentences, and what its models are and are not for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from musix_runtime.bundle.manifest import SourceInfo, numbers
from musix_runtime.inspection.figures import Comparison, Figure, Protocols, compare, direction, in_words, protocols

Quality = Mapping[str, Any]
Sources = Mapping[str, SourceInfo]
LOPSIDED = 0.5  # share of the tracks, above which a mood is named


@dataclass(frozen=True)
class Area:
    """What a model does, the protocols that measure it, the best first, and, without one, keys of the quality card."""

    name: str
    protocols: tuple[str, ...]
    metric: str
    key: str
    baselines: Mapping[str, str]


GENRE = Area(
    "Genre",
    ("genre/known_artists", "genre/five_fold"),
    "macro_f1",
    "genre.macro_f1",
    {name: f"genre.all_artists.baselines.{name}" for name in ("artist_lookup", "xgboost_alone", "lightfm_alone")},
)
MOOD = Area("Mood as people hear it", ("mood/perceived",), "macro_f1", "mood.perceived_macro_f1", {})
LISTS = Area(
    "Recommendations",
    ("hybrid/full", "playlists/history_half"),
    "ndcg_at_10",
    "hybrid.hybrid.ndcg_at_10",
    {name: f"hybrid.{name}.ndcg_at_10" for name in ("collab_alone", "content_alone", "popularity_alone")},
)
FACTORS = Area(
    "Recommendations by listening alone",
    ("collab/full",),
    "ndcg_at_10",
    "collab.known_users.ndcg_at_10",
    {"popularity": "collab.popularity.ndcg_at_10"},
)
# What a run of all parts should be measured by, with the part of the quality card that it is about.
EXPECTED = {
    "genre/unseen_artists": "genre of artists that are not in training",
    "mood/perceived": "moods as people hear them",
    "hybrid/full": "lists as served",
    "hybrid/cold_listeners": "listeners with a short history",
}
TESTS = {"mood/rule"}  # regression tests, which say nothing about quality


def verdict(quality: Quality, sources: Sources) -> list[str]:
    """Return sentences on data, genre, mood, recommendations, and what is worst or not measured, for the parts that
    the quality card has."""
    measured = protocols(quality)
    sentences = [_data(sources)]
    if "genre" in quality:
        unseen = measured.get("genre/unseen_artists", {}).get("macro_f1")
        more = f" For artists that are not in training: {_compared('macro_f1', unseen)}." if unseen else ""
        sentences.append(_area(GENRE, quality, measured) + more)
    if "mood" in quality:
        sentences.append(_mood(quality, measured))
    sentences.append(_area(LISTS if "hybrid" in quality else FACTORS, quality, measured))
    return [*sentences, _worst(quality, measured)]


def training_figures(quality: Quality) -> Protocols:
    """Return the figures of genre, mood and recommendations that the training measured, without intervals."""
    found: Protocols = {}
    for area in (GENRE, MOOD, LISTS, FACTORS):
        if figure := _card_figure(area, quality):
            found[f"{area.key.partition('.')[0]}/quality_card"] = {area.metric: figure}
    return found


def limits(quality: Quality, sources: Sources) -> list[str]:
    """Return sentences on what the data and the training do not allow to conclude."""
    found = []
    if simulated := _simulated(sources):
        found.append(f"Simulated tables: {simulated}. Figures show that the software works, not how people listen.")
    for name, source in sources.items():
        for key in ("derivation", "times"):
            note = source.notes.get(key)
            if note and note != "yes":
                found.append(f"{name}, {key}: {note}.")
    fits = _section(_section(quality, "genre"), "fits")
    if fits.get("shipped") != fits.get("measured"):
        found.append("The genre figures are of a model that had not learned from the test part; the shipped one has.")
    if _section(quality, "mood").get("teacher") == "rule":
        found.append("The moods are thresholds over audio features, not labels from listeners.")
    for mood, share in _section(_section(quality, "catalog"), "mood_shares").items():
        if share > LOPSIDED:
            found.append(f"{share:.0%} of the tracks have the mood {mood}: it tells few of them apart.")
    if _section(quality, "ranker").get("impressions_source") == "derived":
        found.append("The ranker learned from held-out listening, not from lists that people saw.")
    if "genre" in quality:
        found.append("Only tracks of the catalogue are recommended, and every track gets one of its genres.")
    return [*found, "Taste is that of the listeners in the data; others, and later times, may differ."]


def uses(tracks: int, listeners: int, genres: Sequence[str]) -> list[str]:
    """Return sentences on what the models are made for."""
    return [
        f"Genre ({', '.join(genres)}) and mood of a track, from its audio features and, if known, artist and title.",
        f"The next tracks out of a catalogue of {tracks:,}, with reasons, for {listeners:,} known listeners, for new"
        " ones with a history, and for anyone by the current track.",
        "Not made for decisions about people or about the pay of artists.",
    ]


def _data(sources: Sources) -> str:
    if simulated := _simulated(sources):
        return f"The data is simulated ({simulated}): no figure here applies to real listeners."
    rows = ", ".join(f"{name} {source.rows:,}" for name, source in sources.items())
    derived = [name for name, source in sources.items() if "derivation" in source.notes]
    note = f", derived from other data: {', '.join(derived)}" if derived else ""
    return f"The data is real (rows: {rows}){note}."


def _simulated(sources: Sources) -> str:
    return ", ".join(name for name, source in sources.items() if source.simulated)


def _area(area: Area, quality: Quality, measured: Protocols) -> str:
    figures = (measured.get(protocol, {}).get(area.metric) for protocol in area.protocols)
    figure = next((each for each in figures if each), None) or _card_figure(area, quality)
    if figure is None:
        return f"{area.name}: not measured."
    return f"{area.name}: {_compared(area.metric, figure)}."


def _card_figure(area: Area, quality: Quality) -> Figure | None:
    """Return the figure that the training measured, which has no interval."""
    values = dict(numbers(quality))
    if area.key not in values:
        return None
    return Figure(
        values[area.key], baselines={name: values[key] for name, key in area.baselines.items() if key in values}
    )


def _compared(metric: str, figure: Figure) -> str:
    comparison = compare(metric, figure)
    value = f"{in_words(metric)} {figure.text()}"
    return f"{value}, {comparison.text()}" if comparison else f"{value}, measured beside no baseline"


def _mood(quality: Quality, measured: Protocols) -> str:
    mood = _section(quality, "mood")
    if mood.get("teacher") == "rule" and "mood/perceived" not in measured:
        agreement = mood.get("rule_agreement")
        share = f" in {agreement:.1%} of the tracks" if isinstance(agreement, float) else ""
        return f"Mood: repeats a rule over audio features{share}; whether people hear it so was not measured."
    return _area(MOOD, quality, measured)


def _worst(quality: Quality, measured: Protocols) -> str:
    if not measured:
        return "No figure has an interval yet: `musix evaluate` measures them, beside more baselines."
    compared: list[tuple[str, str, Comparison]] = []
    for protocol, figures in measured.items():
        for metric, figure in figures.items():
            comparison = compare(metric, figure) if direction(metric) > 0 and protocol not in TESTS else None
            if comparison and comparison.difference:
                compared.append((protocol, metric, comparison))
    worse = [each for each in compared if each[2].outcome == "worse"]
    text = (
        f"Worse than the best baseline, by an interval that excludes 0: {len(worse)} of {len(compared)} figures of"
        " accuracy"
    )
    if worse:
        protocol, metric, worst = max(worse, key=lambda each: _relative_loss(each[2]))
        text += (
            f", most of all {in_words(metric)} of {protocol}, {worst.own:.3f} beside {worst.value:.3f} of"
            f" {in_words(worst.baseline)}"
        )
    missing = [name for protocol, name in EXPECTED.items() if protocol not in measured and "hybrid" in quality]
    return f"{text}. Not measured: {', '.join(missing)}." if missing else f"{text}."


def _relative_loss(comparison: Comparison) -> float:
    own, value = comparison.own, comparison.value
    return abs(own - value) / max(abs(own), abs(value), 1e-9)


def _section(quality: Quality, name: str) -> dict[str, Any]:
    section = quality.get(name)
    return section if isinstance(section, dict) else {}
