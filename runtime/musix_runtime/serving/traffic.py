"""Traffic beside that of the live bundle: the variants of a running experiment, and a running shadow."""

from collections.abc import Mapping
from dataclasses import dataclass

from musix_runtime.engine import Engine
from musix_runtime.registry.experiments import Experiment
from musix_runtime.registry.shadows import Shadow
from musix_runtime.schemas import Variant


@dataclass(frozen=True)
class Traffic:
    """A running experiment, and the engine of each variant. A request keeps the traffic of its start."""

    experiment: Experiment
    engines: Mapping[Variant, Engine]


@dataclass(frozen=True)
class ShadowTraffic:
    """A running shadow, and its engine."""

    shadow: Shadow
    engine: Engine
