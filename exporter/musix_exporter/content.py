"""Content: the vectors as an index."""

import numpy as np

from musix_exporter import index
from musix_exporter.bundle_writer import Files
from musix_runtime.bundle.manifest import Search
from musix_runtime.models.arrays import unit
from musix_trainer import recipe
from musix_trainer.models.collab import CollabModel
from musix_trainer.models.content import ContentModel


def convert(model: ContentModel, collab: CollabModel, at: int, settings: recipe.Index, files: Files) -> Search:
    """Add the content part to a bundle's files. It is asked for tracks, and for what listeners heard."""
    playing = model.vectors[index.sample(len(model.vectors))]
    listeners = index.sample(len(collab.listeners))
    heard = [collab.history_rows[slice(*collab.history_offsets[i : i + 2])] for i in listeners]
    profiles = unit(np.array([model.vectors[rows].mean(axis=0) for rows in heard]))
    queries = np.concatenate([playing[::2], profiles[::2]])
    return index.add("content/index.faiss", model.vectors, queries, at, settings, files)
