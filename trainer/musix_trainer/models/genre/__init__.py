"""The genre part: the calibrated average of LightFM, of XGBoost on top of the genres of known artists or, where no
artist is known, of the letters of names and titles, and of three XGBoost models that read no artist.

`evidence` declares what a request can lack, `features` prepares the inputs, `artist_prior` and `ngrams` read artists
and texts, `base_models` fits LightFM and XGBoost, `calibration` averages them, `model` is the trained ensemble,
`training` fits it, `quality` measures it.
"""

from typing import Any

from musix_trainer.models.genre import quality, training
from musix_trainer.models.genre.model import GenreModel
from musix_trainer.part import Part, Training


def _train_part(run: Training) -> tuple[GenreModel, dict[str, Any]]:
    model, card = training.train(run.catalogue, run.recipe.genre, run.recipe.seed)
    return model, {"genre": card}


PART = Part("genre", _train_part, lambda path, recipe: GenreModel.load(path), quality.QUALITY_KEYS, quality.FLOORS)
