"""Report: a self-contained HTML page about a run and its bundle."""

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from sklearn.metrics import precision_recall_fscore_support

from musix_runtime import Engine
from musix_runtime.inspection import verdict
from musix_runtime.inspection.figures import in_words, protocols
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.schemas import ClassifyRequest, RecommendRequest
from musix_trainer import curves
from musix_trainer.evaluation import evaluate, plots
from musix_trainer.evaluation.benchmark import Benchmark
from musix_trainer.evaluation.report.examples import N_HEARD, N_PROPOSED, Example, examples
from musix_trainer.evaluation.report.figures import by_protocol, models_table
from musix_trainer.evaluation.report.page import document, folded, image, items, table, text
from musix_trainer.models.genre.evidence import CELLS
from musix_trainer.models.genre.quality import CELL_METRICS, predict_test_split
from musix_trainer.run import Run
from musix_trainer.runs import evaluation

N_TIMED = 300  # requests of each kind


def write(path: Path, bundle: Path | None = None) -> str:
    """Return the page about the run in `path`; with a bundle, also sizes and response times."""
    run = evaluate.load(path)
    results = evaluation(path)
    quality = {**run.quality, "evaluation": results}
    figures, label = by_protocol(results), run.recipe_file.recipe.label
    sections = {"Verdict": items(map(text, verdict.verdict(quality, run.provenance.sources)))}
    if isinstance(run, Run):
        sections |= {
            "Use and limits": _uses(run, quality),
            "Example lists": _examples(run),
            "Figures by protocol": figures,
            "Learning curves": _training(run),
            "Genre": _genre(run),
            "Mood": _mood(run, results),
            "Data": _data(run),
        }
    else:
        sections["Figures by protocol"] = figures
    sections |= {"Latency and size": _bundle(bundle), "Provenance": _provenance(run)}
    return document(label, sections)


def _uses(run: Run, quality: dict[str, Any]) -> str:
    uses = verdict.uses(len(run.catalogue), len(run.collab.listeners), run.catalogue.labels)
    limits = verdict.limits(quality, run.provenance.sources)
    return items(map(text, uses)) + "<h3>Limits</h3>" + items(map(text, limits))


def _examples(run: Run) -> str:
    """Return the section with lists for listeners; the first one is unfolded."""
    note = (
        f"<p>Listeners of the run, chosen by its seed: the newest {N_HEARD} tracks that they heard in training, and the"
        f" list of {N_PROPOSED} that they get. A proposal is marked &#10003; if it is among their held-out tracks.</p>"
    )
    lists = [_example(number, each) for number, each in enumerate(examples(run), 1)]
    return note + "".join(lists)


def _example(number: int, example: Example) -> str:
    proposals = [
        f"{text(each.track)}{' &#10003;' if each.held_out else ''}<br>"
        f'<span class="note">{text(each.reason)}'
        f"{text('; because of ' + ' / '.join(each.because)) if each.because else ''}</span>"
        for each in example.proposals
    ]
    return folded(
        f"Listener {number}, {example.n_heard:,} tracks: {text(example.heard[0])}, ...",
        "<p>Heard:</p>",
        items(map(text, example.heard)),
        "<p>Proposed:</p>",
        items(proposals, "ol"),
        is_open=number == 1,
    )


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
    gaps = (
        f"<p>Of {len(catalogue):,} recordings: release date {dates:,}; audio features "
        f"{', '.join(f'{name} {count:,}' for name, count in missing_counts if count) or 'none'}.</p>"
    )
    return "".join(
        (
            f"<p>{len(catalogue):,} recordings, {len(run.interactions):,} pairs of listener and recording.</p>",
            folded("Tables", table(("table", "note", "value"), notes)),
            folded("Missing values", gaps),
            folded("Genres", image(plots.families(catalogue), "Recordings of each genre")),
            folded("Audio features", image(plots.distributions(catalogue), "Histogram of each audio feature")),
            folded("Correlations", image(plots.correlations(catalogue), "Correlations of the audio features")),
            folded("Listening", image(plots.popularity(run), "Share of interactions of the most popular tracks")),
        )
    )


def _training(run: Run) -> str:
    """Return the section with the learning curves."""
    summaries = [text(curves.summary(curve)) for curve in curves.curves(run.points)]
    if not summaries:
        return "<p>This run has none.</p>"
    plot = image(plots.learning_curves(run.points), "Learning curves of each part")
    return plot + folded("First, best and last values", items(summaries))


def _genre(run: Run) -> str:
    """Return the genre section, on the test part of the run's own split."""
    catalogue = run.catalogue
    confidence, truth = predict_test_split(run.genre, catalogue, run.recipe.genre, run.recipe.seed)
    chosen = confidence.argmax(axis=1)
    right = truth[np.arange(len(truth)), chosen]
    labels = np.where(right, chosen, truth.argmax(axis=1))
    scores = precision_recall_fscore_support(labels, chosen, labels=range(len(catalogue.labels)), zero_division=0)
    rows = [(name, *each) for name, *each in zip(catalogue.labels, *scores, strict=True)]
    by_evidence = [
        (in_words(cell), *(each[name] for name in CELL_METRICS))
        for cell in CELLS
        if (each := run.quality["genre"]["all_artists"].get(cell))
    ]
    return "".join(
        (
            f"<p>{len(truth):,} held-out recordings, all inputs. Any of a recording's labels is right.</p>",
            "<h3>Confusion</h3>",
            image(plots.confusion(catalogue.labels, confidence, truth), "Share of each chosen genre in each true one"),
            folded("Precision and recall by genre", table(("genre", "precision", "recall", "F1", "recordings"), rows)),
            "<h3>Calibration</h3>",
            "<p>By what a request holds; ECE is how far confidence and share of right choices are apart.</p>",
            table(("evidence", *map(in_words, CELL_METRICS)), by_evidence),
            folded("Reliability, all inputs", image(plots.reliability(confidence, truth), "Accuracy by confidence")),
        )
    )


def _mood(run: Run, results: dict[str, Any]) -> str:
    """Return the mood section: shares of the catalogue, and both teachers beside each other if they were measured."""
    measured = protocols({"evaluation": results})
    own = f"taught by {run.quality['mood'].get('teacher', 'rule')}"
    tables = [
        f"<p>{note}</p>{models_table(own, measured[protocol])}"
        for protocol, note in (
            ("mood/perceived", "Moods that people heard, by each teacher and by baselines:"),
            ("mood/catalogue", "Share of the catalogue's recordings:"),
        )
        if protocol in measured
    ]
    plot = image(plots.moods(run), "Recordings of each mood, by the rule and by the network")
    return f"<p>The shipped network is {text(own)}.</p>{plot}{''.join(tables) or '<p>Not evaluated.</p>'}"


def _bundle(path: Path | None) -> str:
    if path is None:
        return "<p>Not measured: pass the bundle with <code>--bundle</code>.</p>"
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
            f"<p>{N_TIMED} requests of each kind through the bundle, in this process, one after the other.</p>",
            table(("request", "median ms", "P95 ms"), times),
            table(("part", "size"), sizes),
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
    recipe = folded("Recipe", f"<pre>{text(provenance.recipe)}</pre>")
    return folded("Hashes and versions", table(("field", "value"), rows)) + recipe
