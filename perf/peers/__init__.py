"""Peers: other servers of the same models, which answer the same requests."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perf.servers import HOST, MUSIX

# Prints the versions of the packages named on its command line; their absence is its last line on standard error.
_VERSIONS = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
)


class AbsentError(Exception):
    """A peer is not installed; the message has the missing package."""


@dataclass(frozen=True)
class Place:
    """Paths for a peer: the bundle folder, the folder of `files.write`, and the Python interpreter of the peers."""

    bundle: Path
    native: Path
    python: Path


@dataclass(frozen=True)
class Peer:
    """A server: its start on a port, the packages that it needs, and the files that it loads."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Place, int], list[str]]
    files: Callable[[Place], list[Path]]
    rival: bool = True

    def versions(self, place: Place) -> dict[str, str]:
        """Return the versions of its packages. Raises AbsentError if one is not installed."""
        python = str(place.python) if self.rival else sys.executable
        result = subprocess.run([python, "-c", _VERSIONS, *self.packages], capture_output=True, text=True, check=False)
        if result.returncode:
            last = result.stderr.strip().splitlines()[-1:]
            raise AbsentError(f"{python}: expected {', '.join(self.packages)}, found: {''.join(last)}")
        versions: dict[str, str] = msgspec.json.decode(result.stdout)
        return versions


def _module(name: str) -> Callable[[Place, int], list[str]]:
    def command(place: Place, port: int) -> list[str]:
        folders = [str(place.bundle), str(place.native)]
        python = sys.executable if name == "floor" else str(place.python)  # the floor runs in this environment
        return [python, "-m", f"perf.peers.{name}", *folders, HOST, str(port)]

    return command


def _musix(place: Place, port: int) -> list[str]:
    return [str(MUSIX), "serve", str(place.bundle), "--host", HOST, "--port", str(port)]


def _bentoml(place: Place, port: int) -> list[str]:
    given = [f"--arg=bundle={place.bundle}", f"--arg=native={place.native}"]
    return [
        str(place.python),
        "-m",
        "bentoml",
        "serve",
        "perf.peers.bentoml:Music",
        "--host",
        HOST,
        "--port",
        str(port),
        *given,
    ]


def _bundle(place: Place) -> list[Path]:
    return [path for path in place.bundle.rglob("*") if path.is_file()]


def _native(place: Place) -> list[Path]:
    return list(place.native.iterdir())


def _hosted(place: Place) -> list[Path]:
    tables = [
        place.native / name
        for name in ("names.pickle", "tracks.joblib", "listeners.joblib", "artists.joblib", "content.faiss")
    ]
    return [*tables, *place.bundle.glob("*/model.onnx")]


_HOST = ("faiss-cpu", "joblib", "numpy", "onnxruntime", "pydantic")
PEERS = (
    Peer("musix", ("musix-edge", "faiss-cpu", "numpy", "onnxruntime", "starlette", "uvicorn"), _musix, _bundle, False),
    Peer(
        "native",
        ("fastapi", "faiss-cpu", "joblib", "numpy", "pydantic", "torch", "uvicorn", "xgboost"),
        _module("native"),
        _native,
    ),
    Peer("litserve", ("litserve", *_HOST), _module("litserve"), _hosted),
    Peer("bentoml", ("bentoml", *_HOST), _bentoml, _hosted),
    Peer("floor", ("faiss-cpu", "onnxruntime", "starlette", "uvicorn"), _module("floor"), _bundle),
)
