"""The one training loop for the PyTorch parts: Adam, mini-batches, early stopping on validation loss."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from musix_trainer import progress

Loss = Callable[[Tensor, Tensor], Tensor]


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, dropout: Sequence[float] = ()) -> nn.Sequential:
    """Linear layers with ReLU between; with BatchNorm and dropout after each hidden layer when `dropout` is given."""
    layers: list[nn.Module] = []
    for i, width in enumerate(hidden):
        layers.append(nn.Linear(inputs, width))
        if dropout:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout[i]))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def fit(
    network: nn.Module,
    loss: Loss,
    train: Sequence[Tensor],
    validation: Sequence[Tensor],
    *,
    learning_rate: float,
    batch: int,
    epochs: int,
    patience: int,
    seed: int,
    label: str,
) -> int:
    """Train `network` in place and leave it, in eval mode, as it was after its best epoch. Gives that epoch, from 1.

    `train` and `validation` are the network's inputs, and last the wanted outputs; all with a row an example.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    best, best_epoch, best_state = float("inf"), 0, copy.deepcopy(network.state_dict())
    for epoch in progress.steps(label, epochs):
        network.train()
        order = torch.randperm(len(train[0]), generator=generator)
        for rows in torch.split(order, batch):
            if len(rows) == 1:
                continue  # BatchNorm has no variance of one row
            optimizer.zero_grad()
            *inputs, wanted = (each[rows] for each in train)
            loss(network(*inputs), wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.no_grad():
            found = float(loss(network(*validation[:-1]), validation[-1]))
        if found < best:
            best, best_epoch, best_state = found, epoch + 1, copy.deepcopy(network.state_dict())
        elif epoch + 1 - best_epoch >= patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return best_epoch
