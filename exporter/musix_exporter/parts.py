"""The registered parts of an export, in the order of the runtime's parts.

To add a part, write a module with a `Part` and one line here.
"""

from musix_exporter import artists, catalog, collab, content, genre, mood, ranker
from musix_exporter.part import Part

PARTS: tuple[Part, ...] = (
    catalog.PART,
    genre.PART,
    mood.PART,
    artists.PART,
    collab.PART,
    content.PART,
    ranker.PART,
)
