"""The musix-edge runtime: open a bundle, get answers.

    from musix_runtime import Engine, RecommendRequest

    engine = Engine.open("demo-1.0.0")
    print(engine.recommend(RecommendRequest(user_id="listener-001")))

ONNX Runtime builds from 1.29 on report telemetry; a host that does not want this sets `ORT_DISABLE_TELEMETRY=1`
before it first uses a name of this package. The command `musix` does so for its own process.
"""

TYPE_CHECKING = False  # that of `typing`, whose import takes milliseconds in which `musix` cannot handle signals
if TYPE_CHECKING:
    from musix_runtime.engine import Engine
    from musix_runtime.errors import MusixError
    from musix_runtime.registry.registry import Registry
    from musix_runtime.schemas import AudioFeatures, ClassifyRequest, Context, Filters, RecommendRequest, SimilarRequest
    from musix_runtime.serving.app import create_app
    from musix_runtime.serving.model_manager import ModelManager
    from musix_runtime.settings import Settings

__all__ = [
    "AudioFeatures",
    "ClassifyRequest",
    "Context",
    "Engine",
    "Filters",
    "ModelManager",
    "MusixError",
    "RecommendRequest",
    "Registry",
    "Settings",
    "SimilarRequest",
    "create_app",
]

_HOMES = {
    "create_app": "serving.app",
    "Engine": "engine",
    "ModelManager": "serving.model_manager",
    "MusixError": "errors",
    "Registry": "registry.registry",
    "Settings": "settings",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: importing the package alone loads no library, and starts no thread."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return globals().setdefault(name, getattr(import_module(f"{__name__}.{_HOMES.get(name, 'schemas')}"), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
