"""Traffic of a running experiment: which engine answers which variant."""

from collections.abc import Mapping
from dataclasses import dataclass

from musix_runtime.engine import Engine
from musix_runtime.registry.experiments import Experiment
from musix_runtime.schemas import Variant


@dataclass(frozen=True)
class Traffic:
    """A running experiment, and the engine of each variant. A request keeps the traffic of its start."""

    experiment: Experiment
    engines: Mapping[Variant, Engine]
