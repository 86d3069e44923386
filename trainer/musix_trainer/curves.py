"""Learning curves: what the training of a part measures at each step, for `metrics.jsonl` of the run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import msgspec

FILE = "metrics.jsonl"


class Point(msgspec.Struct, frozen=True):
    """One value of a curve: the part that is trained, the metric, and the step (an epoch or boosting round, from 1)."""

    part: str
    metric: str
    step: int
    value: float


Curve = tuple[str, str, list[Point]]  # part, metric and points, ascending by step
_recorded: ContextVar[list[Point] | None] = ContextVar("recorded", default=None)


@contextmanager
def recording() -> Iterator[list[Point]]:
    """Collect the points that are recorded inside of the context."""
    points: list[Point] = []
    token = _recorded.set(points)
    try:
        yield points
    finally:
        _recorded.reset(token)


def record(part: str, step: int, **values: float) -> None:
    """Record the values of metrics at a step, if a `recording` is under way."""
    points = _recorded.get()
    if points is not None:
        points.extend(Point(part, metric, step, float(value)) for metric, value in values.items())


def curves(points: Sequence[Point]) -> list[Curve]:
    """Return the points by part and metric, in the order of their first points."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.part, point.metric), []).append(point)
    return [(part, metric, group) for (part, metric), group in groups.items()]


def summary(curve: Curve) -> str:
    """Return the first, best and last value of a curve, as a line. A metric is best where it is lowest if its name ends
    with "loss", or else where it is highest."""
    part, metric, points = curve
    best = (min if metric.endswith("loss") else max)(points, key=lambda point: point.value)
    first, last = points[0], points[-1]
    return (
        f"{part}: {metric} {first.value:.4g} at step {first.step}, best {best.value:.4g} at {best.step}, last"
        f" {last.value:.4g} at {last.step}"
    )


def save(path: Path, points: Sequence[Point]) -> None:
    """Write a line of JSON for each point."""
    path.write_bytes(msgspec.json.Encoder().encode_lines(points))


def load(path: Path) -> list[Point]:
    """Read the file that `save` wrote."""
    return msgspec.json.Decoder(Point).decode_lines(path.read_bytes())
