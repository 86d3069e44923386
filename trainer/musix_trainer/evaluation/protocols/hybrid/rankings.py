"""Rankings of one candidate list: the hybrid's own, single components, ablations, the fixed blend and LambdaRank."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from musix_runtime.models.arrays import Floats
from musix_runtime.models.candidate_features import CandidateFeatures
from musix_runtime.models.ranker import COMPONENTS, DIVERSITY, Ranker
from musix_trainer.data.interactions import Interactions
from musix_trainer.models.ranker.examples import derive_examples
from musix_trainer.run import Run

K = 10  # tracks in a list
OURS = "hybrid"
Ranking = Callable[[CandidateFeatures, Floats], NDArray[Any]]  # features of one request, context -> positions of a list
Scorer = Callable[[Floats, Floats], NDArray[Any]]  # components, context -> scores


def make_rankings(run: Run, validation: Interactions, seed: int) -> dict[str, Ranking]:
    """Return every ranking by name, the hybrid's own first."""
    ranker = run.ranker.runtime()
    serving_blend = run.retriever().serving.blend
    blend = np.array([serving_blend[name] for name in COMPONENTS])
    return {
        OURS: partial(_select, ranker),
        **{f"{name}_alone": _by(partial(_column, i)) for i, name in enumerate(COMPONENTS) if i != DIVERSITY},
        "fixed_blend": _by(lambda components, _: components @ blend),
        "LambdaRank": _by(_lambda_rank(run, validation, seed)),
        **{f"without_{name}": _without(ranker, i) for i, name in enumerate(COMPONENTS)},
    }


def _by(score: Scorer) -> Ranking:
    return lambda features, context: np.argsort(-score(features.components[0], context), kind="stable")[:K]


def _without(ranker: Ranker, column: int) -> Ranking:
    """Return the hybrid's ranking with one component set to 0; without diversity, by the scores alone."""

    def ranking(features: CandidateFeatures, context: Floats) -> NDArray[Any]:
        ablated = features.components.copy()
        ablated[..., column] = 0
        if column == DIVERSITY:
            return np.argsort(-ranker.scores(ablated, context[None])[0], kind="stable")[:K]
        return _select(ranker, replace(features, components=ablated), context)

    return ranking


def _select(ranker: Ranker, features: CandidateFeatures, context: Floats) -> NDArray[Any]:
    """Return the positions of the list that the runtime's ranker selects."""
    picks, _, lengths = ranker.select(features, context[None], np.array([K]))
    return picks[0, : lengths[0]]


def _column(column: int, components: Floats, context: Floats) -> NDArray[Any]:
    return components[:, column]


def _lambda_rank(run: Run, validation: Interactions, seed: int) -> Scorer:
    """Train LightGBM's LambdaRank (Burges 2010) on the examples that the ranker derives when it has no impressions."""
    examples = derive_examples(run.retriever(), run.collab, validation, run.recipe.ranker, seed)
    order = np.argsort(examples.listener, kind="stable")
    sizes = np.unique(examples.listener[order], return_counts=True)[1]
    model = lightgbm.LGBMRanker(n_estimators=100, num_leaves=15, random_state=seed, verbose=-1, n_jobs=1)
    model.fit(examples.inputs[order], examples.positive[order].astype(int), group=sizes)
    booster = model.booster_

    def scores(components: Floats, context: Floats) -> NDArray[Any]:
        return np.asarray(booster.predict(np.column_stack([components, np.tile(context, (len(components), 1))])))

    return scores
