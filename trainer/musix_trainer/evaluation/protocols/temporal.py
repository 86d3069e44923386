"""Protocol `temporal`: what known listeners hear for the first time after the date at which the recipe splits.

The run's own models, which learned from what was before, rank all tracks with training interactions outside of the
history. Only such tracks are relevant, as no collaborative model can rank the others. Intervals are over listeners.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from musix_runtime.errors import InputError
from musix_trainer import progress
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage, metrics
from musix_trainer.evaluation.baselines import popularity
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.evaluation.protocols.collab import (
    COMPONENT,
    K,
    component_scorer,
    interaction_matrices,
    make_scorers,
    rank_fully,
    record,
)
from musix_trainer.models.collab import DAY
from musix_trainer.models.ranker.candidates import known_user, recommend
from musix_trainer.run import Run

RECENT_DAYS = 182


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure temporal/full: lists as served if the run has all parts, the component collab, LightFM alone, and
    baselines on the same interactions.

    Beside the baselines of `collab`, popularity among the interactions of the last six months before the date.
    Raises InputError if the recipe does not split by time.
    """
    run, settings = context.run, context.run.recipe_file.recipe
    if settings.split.before_s is None:
        raise InputError(
            'temporal: expected a run whose recipe has [split] by = "time" and a date before, found'
            f' by = "{settings.split.by}"'
        )
    parts = split.split_interactions(run.interactions, [], settings.split, settings.seed)
    learned = parts == split.TRAIN if isinstance(run, Run) else parts != split.TEST
    train, test = run.interactions.select(learned), run.interactions.select(parts == split.TEST)
    leakage.check_held_out(train, test)
    leakage.check_times(train, test)
    history, relevant, columns = interaction_matrices(train, test)
    listeners = np.flatnonzero(np.diff(relevant.indptr))
    scorers = {
        COMPONENT: component_scorer(run.collab, train, settings.ranker.factors),
        **make_scorers(settings, run.collab, train, history, columns, settings.seed),
    }
    recent = train.select(train.last >= settings.split.before_s - RECENT_DAYS * DAY)
    scorers["popularity_of_six_months"] = popularity(interaction_matrices(train, recent)[1], settings.seed)
    ranks = rank_fully(scorers, history, relevant, listeners)
    if isinstance(run, Run):
        ranks = {"hybrid": _served_ranks(run, train, relevant, columns, listeners)} | ranks
    collector = MetricCollector()
    record(collector, ranks, listeners)
    return {"temporal/full": collector.results()}


def _served_ranks(
    run: Run, train: Interactions, relevant: csr_matrix, columns: NDArray[np.int64], listeners: NDArray[np.int64]
) -> list[NDArray[Any]]:
    """Return the ranks of each listener's relevant tracks in the list of ten, as it is served."""
    retriever, ranker = run.retriever(), run.ranker.runtime()
    numbers = retriever.collab.listeners.find([train.names[listener] for listener in listeners.tolist()])
    lists = []
    for _, number in zip(progress.steps("temporal: listeners", len(numbers)), numbers.tolist(), strict=True):
        lists.append(recommend(retriever, ranker, *known_user(retriever, run.collab, number), K))
    return metrics.list_ranks(lists, [set(columns[relevant[each].indices].tolist()) for each in listeners.tolist()])
