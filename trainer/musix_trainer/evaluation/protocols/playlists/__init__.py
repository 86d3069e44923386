"""Protocol `playlists`: continue the playlists of new listeners.

The listeners are cut into five folds; with a table of playlists beside the listening, the playlists alone are. For each
fold the recommender and the baselines are trained on all others; then each listener of the fold is a new one, with a
history of 1, 5, 10 or half of its tracks, and all its other tracks are relevant. The whole catalogue is ranked. One
of the baselines is the blend of the components at which the ranker network began.
Intervals are over listeners, differences are paired.
"""

from musix_trainer import progress
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import leakage
from musix_trainer.evaluation.protocols import EvaluationContext, MetricCollector, Results
from musix_trainer.evaluation.protocols.playlists import next_track
from musix_trainer.evaluation.protocols.playlists.baselines import fit_baselines
from musix_trainer.evaluation.protocols.playlists.engine import train_engine
from musix_trainer.evaluation.protocols.playlists.ranks import LENGTHS, Collected, make_queries, model_ranks
from musix_trainer.models.ranker.out_of_fold import assign_folds
from musix_trainer.run import Run

FOLDS = 5
NEXT_TRACK = "next_track"


def measure(context: EvaluationContext) -> dict[str, Results]:
    """Measure the four lengths of the history, playlists/history_1, _5, _10 and _half, and playlists/next_track."""
    run = context.full_run
    collectors = {name: MetricCollector() for name in (*LENGTHS, NEXT_TRACK)}
    for number in range(context.seeds):
        seed = context.seed(number)
        collected = {name: Collected() for name in collectors}
        folds = assign_folds(run.interactions, FOLDS, seed)[run.interactions.listener]
        for fold in range(FOLDS):
            progress.say(f"playlists: fold {fold + 1} of {FOLDS}")
            train, test = run.interactions.select(folds != fold), run.interactions.select(folds == fold)
            leakage.check_held_out(train, test)
            leakage.check_listeners(train, test)
            _measure_fold(run, train, test, seed, collected)
        for name, each in collected.items():
            each.add_to(collectors[name])
    return {f"playlists/{name}": each.results() for name, each in collectors.items()}


def _measure_fold(
    run: Run, train: Interactions, test: Interactions, seed: int, collected: dict[str, Collected]
) -> None:
    """Add the ranks of one fold, of the recommender and all baselines."""
    scorers = fit_baselines(run, train, seed)
    retriever, ranker = train_engine(run, train)
    for name, length in LENGTHS.items():
        queries = make_queries(test, length, seed)
        collected[name].add(queries.listeners, model_ranks(retriever, ranker, scorers, queries, len(run.catalogue)))
    playing = next_track.make_queries(test, seed)
    collected[NEXT_TRACK].add(
        playing.queries.listeners, next_track.model_ranks(retriever, ranker, scorers, playing, len(run.catalogue))
    )
