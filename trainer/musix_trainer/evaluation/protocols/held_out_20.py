"""Protocol `held_out_20`: a fifth of each listener's artists, among all artists outside of the others."""

import numpy as np

from musix_trainer.data import split
from musix_trainer.evaluation import leakage
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.evaluation.protocols.collab import (
    COMPONENT,
    component_scorer,
    interaction_matrices,
    make_scorers,
    rank_fully,
    record,
)
from musix_trainer.models import collab

SHARE = 0.2


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure held_out_20/full: the component collab, LightFM alone and the baselines are trained on the other artists,
    with the recipe's values.

    Intervals are over listeners.
    """
    settings, interactions = context.run.recipe_file.recipe, context.run.interactions
    collector = MetricCollector()
    for number in range(context.seeds):
        seed = context.seed(number)
        held_out = split.hold_out(interactions, SHARE, seed)
        train, test = interactions.select(~held_out), interactions.select(held_out)
        leakage.check_held_out(train, test)
        history, relevant, columns = interaction_matrices(train, test)
        listeners = np.flatnonzero(np.diff(relevant.indptr))
        model = collab.train(train, settings.collab, seed)
        scorers = {
            COMPONENT: component_scorer(model, train, settings.ranker.factors),
            **make_scorers(settings, model, train, history, columns, seed),
        }
        record(collector, rank_fully(scorers, history, relevant, listeners), listeners)
    return {"held_out_20/full": collector.results()}
