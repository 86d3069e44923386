"""Networks of the PyTorch parts: layers, training with Adam and early stopping, and files."""

import copy
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from musix_trainer import curves, progress

FILE = "network.pt"
Loss = Callable[[Tensor, Tensor], Tensor]


def perceptron(inputs: int, hidden: Sequence[int], outputs: int, dropout: Sequence[float] = ()) -> nn.Sequential:
    """Return linear layers with ReLU between them; with `dropout`, also BatchNorm and dropout after hidden layers."""
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


def save(network: nn.Module, path: Path) -> None:
    """Write the state of a network as `network.pt` into the new folder `path`."""
    path.mkdir(parents=True)
    content = io.BytesIO()  # PyTorch hides the cause of a disk error
    torch.save(network.state_dict(), content)
    (path / FILE).write_bytes(content.getvalue())


def load(network: nn.Module, path: Path) -> None:
    """Read the state that `save` wrote into `network`, and set eval mode."""
    network.load_state_dict(torch.load(path / FILE, weights_only=True))
    network.eval()


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
    part: str,
) -> int:
    """Train `network` in place, restore its best epoch, set eval mode, and return that epoch, counted from 1; 0 when
    no epoch was better than the start.

    `train` and `validation` are the network's inputs and, last, the target; each has a row for each example. The losses
    of each epoch are recorded as curves of `part`.
    """

    def validated() -> float:
        network.eval()
        with torch.no_grad():
            return float(loss(network(*validation[:-1]), validation[-1]))

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    best, best_epoch, best_state = validated(), 0, copy.deepcopy(network.state_dict())
    for epoch in progress.steps(f"{part}: epochs", epochs):
        network.train()
        total, order = 0.0, torch.randperm(len(train[0]), generator=generator)
        for rows in torch.split(order, batch):
            if len(rows) == 1:
                continue  # BatchNorm needs at least two rows
            optimizer.zero_grad()
            *inputs, target = (each[rows] for each in train)
            batch_loss = loss(network(*inputs), target)
            batch_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(batch_loss.detach()) * len(rows)
        validation_loss = validated()
        curves.record(part, epoch + 1, train_loss=total / len(order), validation_loss=validation_loss)
        if validation_loss < best:
            best, best_epoch, best_state = validation_loss, epoch + 1, copy.deepcopy(network.state_dict())
        elif epoch + 1 - best_epoch >= patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return best_epoch
