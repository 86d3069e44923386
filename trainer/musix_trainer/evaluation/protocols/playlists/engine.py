"""The recommender of one fold: collab, catalog and ranker trained on the fold's interactions, content as it is."""

from musix_runtime.models.ranker import Ranker
from musix_runtime.models.retrieval import Retriever
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.models import collab, item_stats
from musix_trainer.models.ranker import training
from musix_trainer.models.retriever import make_retriever
from musix_trainer.run import Run


def train_engine(run: Run, train: Interactions, seed: int) -> tuple[Retriever, Ranker]:
    """Return the runtime's retriever and ranker, trained on `train` alone."""
    settings = run.recipe
    parts = split.split_interactions(train, run.catalogue.primary_artists(), settings.split, seed)
    learned, held_out = train.select(parts != split.VALIDATION), train.select(parts == split.VALIDATION)
    factors = collab.train(learned, settings.collab, seed)
    moods = run.mood.probabilities(run.catalogue.inputs[:, :12])
    stats = item_stats.train(run.catalogue, moods, learned, settings.catalog)
    retriever = make_retriever(factors, run.content, stats, settings.ranker)
    model, _ = training.train(retriever, factors, None, held_out, settings.ranker, seed)
    return retriever, model.runtime()
