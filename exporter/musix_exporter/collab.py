"""Collab: factors and histories as raw arrays."""

from musix_exporter.files import Files
from musix_trainer.collab import CollabModel


def convert(model: CollabModel, files: Files) -> None:
    """Add the collab part to a bundle's files: every array of the model, under its own name."""
    for name, array in vars(model).items():
        files.add_array(f"collab/{name}.npy", array)
