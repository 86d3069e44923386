"""The runtime's retriever over trained arrays."""

from musix_runtime.bundle.manifest import Serving
from musix_runtime.models.retrieval import Retriever
from musix_trainer import recipe
from musix_trainer.models.artists import ArtistsModel
from musix_trainer.models.collab import CollabModel
from musix_trainer.models.content import ContentModel
from musix_trainer.models.item_stats import ItemStats


def make_retriever(
    artists_model: ArtistsModel,
    collab_model: CollabModel,
    content_model: ContentModel,
    catalog_model: ItemStats,
    settings: recipe.Ranker,
    blend: dict[str, float],
) -> Retriever:
    """Return the runtime's retriever over trained arrays, with the weights of the ranker's components in the blend."""
    return Retriever(
        artists_model,
        collab_model.runtime(),
        content_model.runtime(),
        catalog_model.families,
        catalog_model.freshness,
        catalog_model.popularity,
        catalog_model.popular,
        Serving(settings.candidates, settings.pool, blend, settings.factors),
    )
