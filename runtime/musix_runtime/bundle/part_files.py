"""The files of one part of an open bundle, by their names in the part's folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort
from numpy.typing import NDArray

from musix_runtime.bundle.manifest import Manifest
from musix_runtime.errors import LayoutError


class OpenBundle(Protocol):
    """The bundle that a part reads from. File names include the folder."""

    @property
    def path(self) -> Path: ...

    @property
    def manifest(self) -> Manifest: ...

    def array(self, name: str) -> NDArray[Any]: ...

    def session(self, name: str) -> ort.InferenceSession: ...

    def index(self, name: str) -> Any: ...


@dataclass(frozen=True)
class PartFiles:
    """The files of the part `part`."""

    part: str
    bundle: OpenBundle

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    def array(self, name: str) -> NDArray[Any]:
        """Return the mapped array `name`.npy. Raises LayoutError unless it has the declared dtype and shape."""
        return self.bundle.array(f"{self.part}/{name}.npy")

    def session(self, name: str) -> ort.InferenceSession:
        """Return the session of the graph `name`.onnx, which has the declared ports."""
        return self.bundle.session(f"{self.part}/{name}.onnx")

    def index(self, name: str) -> Any:
        """Return the index `name`.faiss, which is as the manifest says."""
        return self.bundle.index(f"{self.part}/{name}.faiss")

    def check_outputs(self, name: str, run: Callable[[], object]) -> None:
        """Call `run`, which runs the graph `name`.onnx on chosen inputs. Raises LayoutError for a wrong output."""
        try:
            run()
        except LayoutError as error:
            raise LayoutError(f"{self.bundle.path}: {self.part}/{name}.onnx: {error}") from error
