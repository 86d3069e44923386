"""The recommender of one fold: all that depends on listeners is trained on the fold's interactions."""

from dataclasses import replace

import msgspec

from musix_runtime.models.ranker import Ranker
from musix_runtime.models.retrieval import Retriever
from musix_trainer.data import split
from musix_trainer.data.interactions import Interactions
from musix_trainer.models.ranker import training
from musix_trainer.models.ranker.out_of_fold import out_of_fold_examples, train_retriever
from musix_trainer.run import Run


def train_engine(run: Run, train: Interactions) -> tuple[Retriever, Ranker]:
    """Return the runtime's retriever and ranker, trained on `train` alone as the recipe says."""
    settings, catalogue = run.recipe, run.catalogue
    if settings.ranker.folds:
        examples = out_of_fold_examples(catalogue, run.content, run.catalog, train, settings)
        model, _ = training.fit(examples, settings.ranker, settings.seed)
        retriever, _ = train_retriever(catalogue, run.content, run.catalog, train, settings)
    else:
        parts = split.split_interactions(train, catalogue.primary_artists(), settings.split, settings.seed)
        learned, held_out = train.select(parts != split.VALIDATION), train.select(parts == split.VALIDATION)
        retriever, factors = train_retriever(catalogue, run.content, run.catalog, learned, settings)
        model, _ = training.train(retriever, factors, None, held_out, settings.ranker, settings.seed)
    blend = model.serving_blend(settings.ranker)
    return replace(retriever, serving=msgspec.structs.replace(retriever.serving, blend=blend)), model.runtime()
