"""Content: the vectors as a FAISS file, exact."""

import faiss

from musix_exporter.files import Files
from musix_trainer.content import ContentModel


def convert(model: ContentModel, files: Files) -> None:
    """Add the content part to a bundle's files."""
    faiss.write_index(model.index(), str(files.place("content/index.faiss")))
