"""Model card of a bundle: Markdown with YAML front matter, as Hugging Face defines it, from the manifest alone.

Strings of the front matter are written as JSON, which YAML includes, so that no name in a bundle can end its line.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from musix_runtime.bundle.manifest import Manifest
from musix_runtime.formatting import escape_control_characters, escape_json, format_value
from musix_runtime.inspection.figures import Figure, Protocols, compare, headlines, in_words, protocols
from musix_runtime.inspection.verdict import limits, training_figures, uses, verdict

CLASSIFICATION, RECOMMENDATION = "tabular-classification", "recommendation"
TASKS = {"genre": (CLASSIFICATION, "Music genre"), "mood": (CLASSIFICATION, "Music mood")}
TAGS = (
    "music",
    "recommender-system",
    "music-genre-classification",
    "music-mood",
    "onnx",
    "faiss",
    "lightfm",
    "xgboost",
)
SERVING = """```sh
pip install musix-edge
musix verify {name}
musix serve {name} --port 8000 &
curl -s http://127.0.0.1:8000/ready
curl -s http://127.0.0.1:8000/api/ml/recommend -H 'Content-Type: application/json' -d '{{"userId": "anyone"}}'
```"""


def model_card(manifest: Manifest, digest: str) -> list[str]:
    """Return the lines of the model card."""
    name, quality, sources = f"{manifest.name}-{manifest.version}", manifest.quality, manifest.provenance.sources
    figures = protocols(quality) or training_figures(quality)
    return [
        *_front_matter(manifest, name, figures),
        "",
        f"# {name}",
        "",
        *_items(verdict(quality, sources)),
        *_section(
            "Intended use", _items(uses(manifest.counts["tracks"], manifest.counts["listeners"], manifest.families))
        ),
        *_section("Limits", _items(limits(quality, sources))),
        *_section("Training data", _training_data(manifest)),
        *_section("Figures", _figures(figures, "evaluation" in quality)),
        *_section("How to serve it", SERVING.format(name=name).splitlines()),
        *_section("Identity", _items(_identity(manifest, digest))),
    ]


def _front_matter(manifest: Manifest, name: str, figures: Protocols) -> list[str]:
    lines = [
        "---",
        "license: other",
        "license_name: that-of-the-training-data",
        "library_name: musix-edge",
        f"pipeline_tag: {CLASSIFICATION}",
        f"tags: {_json(TAGS)}",
        f"datasets: {_json(list(manifest.provenance.sources))}",
    ]
    if figures:
        lines += ["model-index:", f"- name: {_json(name)}", "  results:"]
    for protocol, metrics in figures.items():
        part = protocol.partition("/")[0]
        task, task_name = TASKS.get(part, (RECOMMENDATION, "Music recommendation"))
        lines += [
            f"  - task: {_json({'type': task, 'name': task_name})}",
            f"    dataset: {_json(_dataset(manifest, part, protocol))}",
            "    metrics:",
        ]
        lines += [
            f"    - {_json({'type': metric, 'value': round(figure.value, 4), 'name': in_words(metric)})}"
            for metric, figure in headlines(metrics).items()
        ]
    return [*lines, "---"]


def _dataset(manifest: Manifest, part: str, protocol: str) -> dict[str, str]:
    """Return the table that a protocol is measured on."""
    sources = manifest.provenance.sources
    wanted = {"genre": "tracks", "catalogue": "tracks", "mood": "moods"}.get(part, "listening")
    table = wanted if wanted in sources else "tracks"
    simulated = ", simulated" if table in sources and sources[table].simulated else ""
    return {"type": table, "name": f"{table}{simulated}, protocol {protocol}"}


def _training_data(manifest: Manifest) -> list[str]:
    rows = [
        (
            name,
            source.rows,
            "yes" if source.simulated else "no",
            "; ".join(f"{key}: {format_value(note)}" for key, note in source.notes.items()),
            source.sha256[:12],
        )
        for name, source in manifest.provenance.sources.items()
    ]
    return _table(("table", "rows", "simulated", "notes", "SHA-256"), rows)


def _figures(figures: Protocols, evaluated: bool) -> list[str]:
    if not figures:
        return ["None were measured."]
    intro = (
        "With 95 % intervals; a difference to a baseline is paired."
        if evaluated
        else ("Measured in training, without intervals; `musix evaluate` adds these, and more baselines.")
    )
    lines = [intro]
    for protocol, metrics in figures.items():
        shown = headlines(metrics)
        rows = [_row(metric, figure) for metric, figure in shown.items()]
        lines += ["", f"### {_text(protocol)}", "", *_table(("metric", "value", "beside", "baselines"), rows)]
    return lines


def _row(metric: str, figure: Figure) -> tuple[str, ...]:
    comparison = compare(metric, figure)
    baselines = ", ".join(f"{in_words(name)} {value:.3f}" for name, value in figure.rivals.items())
    return in_words(metric), figure.text(), comparison.text() if comparison else "", baselines


def _identity(manifest: Manifest, digest: str) -> list[str]:
    sizes = manifest.part_bytes()
    return [
        f"digest {digest}",
        f"bundle format {manifest.format_version}, {sizes['total']:,} bytes, {len(manifest.files)} files",
        f"recipe SHA-256 {manifest.provenance.recipe_sha256}, commit {manifest.provenance.git_commit or 'none'}",
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"- {_text(each)}" for each in sentences]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(_cell(each) for each in line)} |" for line in lines]


def _cell(value: Any) -> str:
    return _text(format_value(value)).replace("|", r"\|")


def _text(value: str) -> str:
    """Return text that is one line of Markdown without HTML."""
    return escape_control_characters(value).replace("<", "&lt;")


def _json(value: Mapping[str, Any] | Iterable[str]) -> str:
    return escape_json(msgspec.json.encode(value).decode())
