"""Protocol `zero_shot`: a run continues the histories of listeners of another table, without any training on it.

The baselines are fitted to what the run's models learned from. Otherwise as `playlists`.
"""

import numpy as np

from musix_runtime.errors import InputError
from musix_trainer import progress
from musix_trainer.data import split, tables
from musix_trainer.data.interactions import Interactions, read_interactions
from musix_trainer.evaluation import leakage
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results, sample
from musix_trainer.evaluation.protocols.playlists.baselines import fit_baselines
from musix_trainer.evaluation.protocols.playlists.ranks import LENGTHS, Collected, make_queries, model_ranks

N_LISTENERS = 1000  # of the table; more are sampled


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure the four lengths of the history, zero_shot/history_1, _5, _10 and _half, with the run's own models.

    Raises InputError without a table, LeakError if the run learned from one of its listeners.
    """
    run, seed = context.full_run, context.seed(0)
    parts = split.split_interactions(
        run.interactions, run.catalogue.primary_artists(), run.recipe.split, run.recipe.seed
    )
    train, test = run.interactions.select(parts == split.TRAIN), _read(context)
    leakage.check_listeners(run.interactions, test)
    scorers = fit_baselines(run, train, seed)
    retriever, ranker = run.retriever(), run.ranker.runtime()
    results = {}
    for name, length in LENGTHS.items():
        collected, collector = Collected(), MetricCollector()
        queries = make_queries(test, length, seed)
        collected.add(queries.listeners, model_ranks(retriever, ranker, scorers, queries, len(run.catalogue)))
        collected.add_to(collector)
        results[f"zero_shot/{name}"] = collector.results()
    return results


def _read(context: EvaluationContext) -> Interactions:
    """Return the interactions of the table, of a sample of its listeners."""
    if context.listening is None:
        raise InputError("zero_shot: expected a table of listening that the run has not seen: pass it with --listening")
    table = tables.read(context.listening)
    data = read_interactions(table, context.full_run.catalogue)
    progress.say(f"listening: {table.rows:,} rows; " + ", ".join(f"{key}: {note}" for key, note in table.notes.items()))
    return data.select(np.isin(data.listener, sample(len(data.names), N_LISTENERS, context.seed(0))))
