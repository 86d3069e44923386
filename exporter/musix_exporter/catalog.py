"""Catalog: ids, metadata and per-track numbers as arrays that stay on disk until asked for."""

import numpy as np

from musix_exporter.bundle_writer import Files
from musix_runtime.models.arrays import Strings
from musix_trainer.data.tracks import Tracks
from musix_trainer.models.item_stats import ItemStats


def convert(catalogue: Tracks, model: ItemStats, files: Files) -> None:
    """Add the catalog folder to a bundle's files."""
    ids = catalogue.ids
    files.add_array("catalog/ids.npy", np.array([each.encode() for each in ids["track_id"]]))
    files.add_array("catalog/id_rows.npy", ids["row"].to_numpy().astype(np.int32))
    files.add_array("catalog/track_ids.npy", np.array([each.encode() for each in catalogue.frame["track_id"]]))
    for column, name in (("track_name", "name"), ("artists", "artist")):
        offsets, data = Strings.pack(catalogue.frame[column].to_list())
        files.add_array(f"catalog/{name}_offsets.npy", offsets)
        files.add_array(f"catalog/{name}_data.npy", data)
    files.add_array("catalog/inputs.npy", catalogue.inputs)
    for name, array in vars(model).items():
        files.add_array(f"catalog/{name}.npy", array)
