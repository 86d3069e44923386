"""Collab: factors as raw arrays and an index, histories as arrays."""

import numpy as np

from musix_exporter import index
from musix_exporter.bundle_writer import Files
from musix_runtime.bundle.manifest import Search
from musix_trainer import recipe
from musix_trainer.models.collab import CollabModel


def convert(model: CollabModel, at: int, settings: recipe.Index, files: Files) -> Search:
    """Add the collab part to a bundle's files: every array of the model under its own name, the tracks' as an index."""
    for name, array in vars(model).items():
        if name != "track_factors":  # written with its index
            files.add_array(f"collab/{name}.npy", array)
    queries = np.array(model.listener_factors[index.sample(len(model.listeners))])
    queries[:, -1] = 1
    return index.add("collab/index.faiss", model.track_factors, queries, at, settings, files)
