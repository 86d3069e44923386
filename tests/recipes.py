"""A recipe whose models are trained in seconds, badly, and a table of moods."""

from typing import TYPE_CHECKING

import numpy as np

from musix_runtime.models.features import AUDIO_NAMES

if TYPE_CHECKING:
    import polars as pl

    from musix_trainer.data.tracks import Tracks

SMALL = """
name = "small"
version = "1.0.0"
source = "synthetic"
[synthetic]
tracks = 800
listeners = 100
[genre]
epochs = 3
learning_rate = 0.2
n_estimators = 10
max_depth = 3
max_bin = 16
[mood]
epochs = 3
[collab]
epochs = 3
[ranker]
epochs = 2
"""


def moods_table(catalogue: "Tracks") -> "pl.DataFrame":
    """Return moods of all recordings by danceability and acousticness; an artist's are in the split of its number."""
    import polars as pl  # which a process that needs the recipe alone does without

    dance, acoustic = (catalogue.inputs[:, AUDIO_NAMES.index(name)] > 0.5 for name in ("danceability", "acousticness"))
    artist = np.unique(catalogue.primary_artists(), return_inverse=True)[1]
    moods = {
        "happy": dance & ~acoustic,
        "sad": ~dance & acoustic,
        "energetic": ~dance & ~acoustic,
        "calm": dance & acoustic,
    }
    return pl.DataFrame(
        {
            "track_id": catalogue.frame["track_id"],
            **{name: mood.astype(float) for name, mood in moods.items()},
            "source": "planted",
            "split": np.array(["train", "train", "train", "validation", "test"])[artist % 5],
        }
    )
