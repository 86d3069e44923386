"""The linear solution that the ranker network begins at: weights of the components, none of them negative."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from musix_runtime.models.arrays import Floats
from musix_runtime.models.ranker import COMPONENTS

MAX_ITERATIONS = 200


def fit_linear(loss: Callable[[Tensor, Tensor], Tensor], components: Tensor, labels: Tensor) -> tuple[Floats, float]:
    """Return the weights (5,) and the bias of a linear function with the least loss (L-BFGS-B).

    `components` (lists, n, 5); `labels` (lists, n, 1), NaN for padding. A component is evidence for a track, so no
    weight is negative.
    """
    inputs, targets = components.double(), labels.double()

    def objective(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = torch.from_numpy(values).requires_grad_()
        value = loss(inputs @ parameters[:-1, None] + parameters[-1], targets)
        (gradient,) = torch.autograd.grad(value, parameters)
        return value.item(), gradient.numpy()

    start = np.append(np.zeros(len(COMPONENTS)), -3.0)
    bounds = [(0.0, None)] * len(COMPONENTS) + [(None, None)]
    found = minimize(
        objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS}
    ).x
    return found[:-1].astype(np.float32), float(found[-1])
