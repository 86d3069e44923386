"""Report: a self-contained HTML page about a run and its bundle."""

import base64
import html
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_fscore_support

from musix_runtime import Engine
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.schemas import ClassifyRequest, RecommendRequest
from musix_trainer import curves
from musix_trainer.evaluation import evaluate, plots
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.models.genre.quality import predict_test_split
from musix_trainer.run import Run, evaluation

OWN = {"genre": "ensemble", "mood": "network", "collab": "LightFM", "hybrid": "hybrid"}
# The metric of each protocol that is plotted with its baselines; the table has all metrics.
PLOTTED = {
    "genre/known_artists": "macro_f1",
    "genre/unseen_artists": "macro_f1",
    "mood/rule": "macro_f1",
    "mood/perceived": "macro_f1",
    "collab/sampled_99": "ndcg_at_10",
    "collab/full": "ndcg_at_10",
    "hybrid/full": "ndcg_at_10",
}
N_TIMED = 300  # requests of each kind
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.7rem } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc } h3 { margin-top: 2rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: .85rem } td, th { padding: .25rem .6rem; text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top } td:last-child { overflow-wrap: anywhere } td.n { text-align: right;
font-variant-numeric: tabular-nums; white-space: nowrap } img { max-width: 100%; height: auto } .note { color: #555 }
"""


def write(path: Path, bundle: Path | None = None) -> str:
    """Return the page about the run in `path`; with a bundle, also sizes and response times."""
    run = evaluate.load(path)
    label = run.recipe_file.recipe.label
    parts = [f"<h1>{_text(label)}</h1>", _summary(run)]
    if isinstance(run, Run):
        parts += [_data(run), _training(run), _genre(run), _mood(run)]
    parts += [_evaluation(evaluation(path)), _bundle(bundle), _provenance(run)]
    title = f"<title>{_text(label)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<body>{"".join(parts)}</body></html>\n'


def _summary(run: Run | Benchmark) -> str:
    simulated = [name for name, each in run.provenance.sources.items() if each.simulated]
    if not simulated:
        return ""
    return f"<p>Simulated: {_text(', '.join(simulated))}. The metrics do not apply to real listeners.</p>"


def _data(run: Run) -> str:
    catalogue = run.catalogue
    notes = [
        (name, key, value)
        for name, each in run.provenance.sources.items()
        for key, value in {"rows": each.rows, **each.notes}.items()
    ]
    missing = np.isnan(catalogue.inputs).sum(axis=0)
    missing_counts = [(name, int(count)) for name, count in zip(AUDIO_NAMES, missing, strict=False)]
    dates = catalogue.frame["release_date"].null_count()
    return "".join(
        [
            "<h2>Data</h2>",
            _table(("source", "note", "value"), notes),
            "<h3>Missing values</h3>",
            f"<p>Of {len(catalogue):,} recordings: release date {dates:,}; audio features "
            + f"{', '.join(f'{name} {count:,}' for name, count in missing_counts if count) or 'none'}.</p>",
            "<h3>Families</h3>",
            _image(plots.families(catalogue)),
            "<h3>Distributions</h3>",
            _image(plots.distributions(catalogue)),
            "<h3>Correlations</h3>",
            _image(plots.correlations(catalogue)),
            "<h3>Listening</h3>",
            _image(plots.popularity(run)),
        ]
    )


def _training(run: Run) -> str:
    """Return the section with the learning curves."""
    summaries = "".join(f"<li>{_text(curves.summary(curve))}</li>" for curve in curves.curves(run.points))
    return f"<h2>Training</h2><ul>{summaries}</ul>{_image(plots.learning_curves(run.points))}" if summaries else ""


def _genre(run: Run) -> str:
    """Return the genre section, on the test part of the run's own split."""
    catalogue = run.catalogue
    confidence, truth = predict_test_split(run.genre, catalogue, run.recipe.genre, run.recipe.seed)
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    labels = np.where(right, chosen, truth.argmax(axis=1))
    scores = precision_recall_fscore_support(labels, chosen, labels=range(len(catalogue.labels)), zero_division=0)
    rows = [(name, *each) for name, *each in zip(catalogue.labels, *scores, strict=True)]
    return "".join(
        [
            "<h2>Genre</h2>",
            f"<p>{len(truth):,} held-out recordings, most of artists that are in training.</p>",
            _table(("family", "precision", "recall", "F1", "recordings"), rows),
            "<h3>Confusion</h3>",
            _image(plots.confusion(catalogue.labels, confidence, truth)),
            "<h3>Reliability</h3>",
            _image(plots.reliability(confidence, truth)),
        ]
    )


def _mood(run: Run) -> str:
    return f"<h2>Mood</h2>{_image(plots.moods(run))}"


def _evaluation(results: dict[str, Any]) -> str:
    if not results:
        return "<h2>Evaluation</h2><p>No results yet: run <code>musix evaluate RUN</code>.</p>"
    pieces = ["<h2>Evaluation</h2><p>With 95 % intervals, bootstrapped over artists, listeners or samples.</p>"]
    for part, protocols in results.items():
        for protocol, metrics in protocols.items():
            name = f"{part}/{protocol}"
            pieces.append(f"<h3>{_text(name)}</h3>")
            if name in PLOTTED and PLOTTED[name] in metrics:
                pieces.append(_image(plots.compared(PLOTTED[name], metrics[PLOTTED[name]], OWN[part])))
            if protocol == "tradeoff":
                pieces.append(_image(plots.tradeoff(metrics)))
            pieces.append(
                _table(("metric", "value", "low", "high", "baselines"), [_row(*each) for each in metrics.items()])
            )
            pieces += [f'<p class="note">{_text(each)}</p>' for each in evaluate.redundant_components(metrics)]
    return "".join(pieces)


def _row(metric: str, each: dict[str, Any]) -> tuple[Any, ...]:
    baselines = ", ".join(f"{name} {evaluate.format_value(value)}" for name, value in each["baselines"].items())
    return metric, each["value"], each["low"], each["high"], baselines


def _bundle(path: Path | None) -> str:
    if path is None:
        return "<h2>Latency and size</h2><p>Not measured: pass the bundle with <code>--bundle</code>.</p>"
    engine = Engine.open(path)
    manifest = engine.bundle.manifest
    sizes = [(part, f"{size / 1e6:.2f} MB") for part, size in manifest.part_bytes().items()]
    listener, track = engine.retriever.collab.listeners.sorted[0].decode(), engine.catalog.track_id(0)
    times = [
        ("classify", *_times(lambda: engine.classify(ClassifyRequest(track_id=track)))),
        ("recommend", *_times(lambda: engine.recommend(RecommendRequest(user_id=listener)))),
    ]
    return "".join(
        [
            "<h2>Latency and size</h2>",
            f"<p>{N_TIMED} requests of each kind through the bundle, in this process, one after the other.</p>",
            _table(("request", "median ms", "P95 ms"), times),
            _table(("part", "size"), sizes),
        ]
    )


def _times(request: Callable[[], object]) -> tuple[float, float]:
    """Return the median and the 95th percentile of the response times in ms."""
    times = []
    for _ in range(N_TIMED):
        start = perf_counter()
        request()
        times.append(1000 * (perf_counter() - start))
    return float(np.median(times)), float(np.percentile(times, 95))


def _provenance(run: Run | Benchmark) -> str:
    provenance = run.provenance
    rows = [
        ("recipe SHA-256", provenance.recipe_sha256),
        ("commit", provenance.git_commit or "none"),
        *((f"{name} SHA-256", each.sha256) for name, each in provenance.sources.items()),
        *provenance.packages.items(),
    ]
    recipe = f"<details><summary>Recipe</summary><pre>{_text(provenance.recipe)}</pre></details>"
    return f"<h2>Provenance</h2>{_table(('field', 'value'), rows)}{recipe}"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = "".join(f"<th>{_text(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(_cell(each) for each in row)}</tr>" for row in rows)
    return f"<table><tr>{heads}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f'<td class="n">{value:.3f}</td>'
    if isinstance(value, int | np.integer):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{_text(value)}</td>"


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"></p>'


def _text(value: Any) -> str:
    return html.escape(str(value))
