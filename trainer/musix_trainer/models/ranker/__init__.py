"""The ranker part: a small network that scores candidates from five components and the context.

The components come from the runtime's own retriever, so that training and serving cannot diverge. `network` is the
model, `candidates` computes its inputs, `examples` makes training examples of impressions, `training` fits the network,
`quality` measures the whole recommender.
"""

from typing import Any

from musix_trainer.models.ranker import quality, training
from musix_trainer.models.ranker.network import RankerModel
from musix_trainer.models.retriever import make_retriever
from musix_trainer.part import Part, Training


def _train_part(run: Training) -> tuple[RankerModel, dict[str, Any]]:
    """Train on the impressions table or the validation part, and measure the whole recommender on the test part."""
    models, settings = run.models, run.recipe.ranker
    retriever, collab = (
        make_retriever(models["collab"], models["content"], models["catalog"], settings),
        models["collab"],
    )
    model, card = training.train(retriever, collab, run.impressions, run.validation, settings, run.recipe.seed)
    return model, {"ranker": card, "hybrid": quality.measure(retriever, collab, model, run.test)}


PART = Part(
    "ranker",
    _train_part,
    lambda path, recipe: RankerModel.load(path, recipe.ranker),
    quality.QUALITY_KEYS,
    quality.FLOORS,
)
