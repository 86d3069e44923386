"""LightFM models that are restored from stored arrays."""

import numpy as np
from lightfm import LightFM

from musix_runtime.models.arrays import Floats


def lightfm(item_factors: Floats, item_biases: Floats, user_factors: Floats, user_biases: Floats) -> LightFM:
    """Return a LightFM model that predicts with these factors (n, components) and biases (n,)."""
    model = LightFM(no_components=item_factors.shape[1])
    for side, factors, biases in (("item", item_factors, item_biases), ("user", user_factors, user_biases)):
        setattr(model, f"{side}_embeddings", np.ascontiguousarray(factors))
        setattr(model, f"{side}_biases", np.ascontiguousarray(biases))
        for kind, like in (("embedding", factors), ("bias", biases)):  # predict requires these, but does not use them
            setattr(model, f"{side}_{kind}_gradients", np.zeros_like(like))
            setattr(model, f"{side}_{kind}_momentum", np.zeros_like(like))
    return model
