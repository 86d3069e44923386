"""The ranker part: a small network that scores candidates from five components and the context.

The components come from the runtime's own retriever, so that training and serving cannot diverge. `network` is the
model, `candidates` computes its inputs, `examples` makes training examples of impressions, `out_of_fold` those of new
listeners. `linear` finds the weights at which `training` begins to fit the network. `quality` measures the whole
recommender.
"""

from typing import Any

from musix_trainer.models.ranker import quality, training
from musix_trainer.models.ranker.network import RankerModel
from musix_trainer.models.ranker.out_of_fold import UNIFORM, out_of_fold_examples
from musix_trainer.models.retriever import make_retriever
from musix_trainer.part import Part, Training


def _train_part(run: Training) -> tuple[RankerModel, dict[str, Any]]:
    """Train on impressions, new listeners or the validation part, and measure the recommender on the test part."""
    models, settings, seed = run.models, run.recipe.ranker, run.recipe.seed
    artists, collab, content, stats = (models[name] for name in ("artists", "collab", "content", "catalog"))
    if settings.folds and not run.impressions:
        examples = out_of_fold_examples(run.catalogue, content, stats, run.train, run.recipe)
        model, card = training.fit(examples, settings, seed)
        card = {"impressions_source": "new listeners"} | card
    else:
        blend = settings.blend if isinstance(settings.blend, dict) else UNIFORM
        retriever = make_retriever(artists, collab, content, stats, settings, blend)
        model, card = training.train(retriever, collab, run.impressions, run.validation, settings, seed)
    retriever = make_retriever(artists, collab, content, stats, settings, model.serving_blend(settings))
    return model, {"ranker": card, "hybrid": quality.measure(retriever, collab, model, run.test, run.recipe.split)}


PART = Part(
    "ranker",
    _train_part,
    lambda path, recipe: RankerModel.load(path, recipe.ranker),
    quality.QUALITY_KEYS,
    quality.FLOORS,
)
