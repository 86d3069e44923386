"""Export of the catalog: ids, titles, artists and features of the tracks as arrays that the runtime maps."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from musix_exporter.bundle_writer import PartWriter
from musix_exporter.part import Part
from musix_runtime.models import catalog
from musix_runtime.models.arrays import Strings
from musix_trainer.models.collab import DAY
from musix_trainer.run import Run


def convert(run: Run, writer: PartWriter) -> None:
    """Write the catalog part."""
    frame, ids = run.catalogue.frame, run.catalogue.ids
    writer.add_array("ids", np.array([track_id.encode() for track_id in ids["track_id"]]))
    writer.add_array("id_rows", ids["row"].to_numpy().astype(np.int32))
    writer.add_array("track_ids", np.array([track_id.encode() for track_id in frame["track_id"]]))
    for column, name in (("track_name", "name"), ("artists", "artist")):
        offsets, data = Strings.pack(frame[column].to_list())
        writer.add_array(f"{name}_offsets", offsets)
        writer.add_array(f"{name}_data", data)
    writer.add_array("inputs", run.catalogue.inputs)
    for name, array in vars(run.catalog).items():
        writer.add_array(name, array)
    writer.add_array("release_days", _release_days(frame["release_date"]))


def _release_days(seconds: pl.Series) -> NDArray[np.int32]:
    """Return the days since 1970-01-01 of times in seconds, `UNKNOWN_DAY` for null. Shape (n,)."""
    return (seconds // DAY).fill_null(catalog.UNKNOWN_DAY).to_numpy().astype(np.int32)


PART = Part(catalog.PART, convert)
