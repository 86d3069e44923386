"""Export of the artists part: its arrays under their own names."""

from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import Part
from musix_runtime.models import artists
from musix_trainer.run import Run


def convert(run: Run, writer: PartWriter) -> None:
    """Write the artists part."""
    for name, array in vars(run.artists).items():
        writer.add_array(name, array)


PART = Part(artists.PART, convert)
