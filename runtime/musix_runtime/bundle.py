"""A bundle on disk: verified file by file, then mapped. Nothing is parsed whose hash was not checked."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from musix_runtime import features
from musix_runtime import manifest as manifests
from musix_runtime.errors import (
    BundleError,
    ExtraFileError,
    FileKindError,
    HashError,
    LayoutError,
    ManifestError,
    MissingFileError,
    SizeError,
)
from musix_runtime.manifest import LAYOUT, MANIFEST, Array, Dimension, Graph, Index, Manifest
from musix_runtime.mood import MOODS
from musix_runtime.ranker import COMPONENTS


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Make one with `Bundle.open`."""

    path: Path
    manifest: Manifest
    digest: str

    @property
    def label(self) -> str:
        """`NAME-VERSION@digest`, as every HTTP answer carries it."""
        return f"{self.manifest.name}-{self.manifest.version}@{self.digest}"

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Verify the bundle folder at `path`: its files, their sizes and hashes, its labels and features.

        Raises a BundleError that names the file, what was expected and what was found.
        """
        path = Path(path)
        encoded = _read_manifest(path)
        manifest = manifests.decode(encoded, str(path / MANIFEST))
        _check_labels(manifest, path / MANIFEST)
        _check_files(path, manifest)
        return cls(path, manifest, manifests.digest(encoded))

    def array(self, name: str) -> NDArray[Any]:
        """The mapped array of a `.npy` file; LayoutError when dtype, order or shape are not the format's."""
        expected = LAYOUT[name]
        if not isinstance(expected, Array):
            raise TypeError(f"{name} is not an array")
        try:
            array = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError) as error:
            raise LayoutError(f"{self.path / name}: expected a .npy file, found: {error}") from error
        shape = tuple(self.manifest.size(each) for each in expected.shape)
        dtype = array.dtype.kind if expected.dtype == "S" else array.dtype.str
        if dtype != expected.dtype or array.shape != shape or not array.flags.c_contiguous:
            raise LayoutError(
                f"{self.path / name}: expected {expected.dtype} {shape} in C order, found {dtype} {array.shape}"
                f"{'' if array.flags.c_contiguous else ' in Fortran order'}"
            )
        return array.view(np.ndarray)

    def session(self, name: str) -> ort.InferenceSession:
        """An ONNX Runtime session on one thread; LayoutError when its inputs or outputs are not the format's."""
        expected = LAYOUT[name]
        if not isinstance(expected, Graph):
            raise TypeError(f"{name} is not a graph")
        try:
            session = ort.InferenceSession(str(self.path / name), _session_options(), ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base below Exception
            raise LayoutError(f"{self.path / name}: expected an ONNX graph, found: {error}") from error
        self._check_ports(name, "inputs", expected.inputs, session.get_inputs())
        self._check_ports(name, "outputs", expected.outputs, session.get_outputs())
        return session

    def index(self, name: str) -> faiss.Index:
        """The mapped FAISS index of a file; LayoutError when its size or metric are not the format's."""
        expected = LAYOUT[name]
        if not isinstance(expected, Index):
            raise TypeError(f"{name} is not an index")
        try:
            index = faiss.read_index(str(self.path / name), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise LayoutError(f"{self.path / name}: expected a FAISS index, found: {error}") from error
        found = (index.ntotal, index.d, index.metric_type)
        wanted = (self.manifest.size(expected.rows), self.manifest.size(expected.width), faiss.METRIC_INNER_PRODUCT)
        if found != wanted:
            raise LayoutError(f"{self.path / name}: expected (rows, width, metric) {wanted}, found {found}")
        return index

    def _check_ports(self, name: str, what: str, expected: dict[str, Dimension], ports: list[Any]) -> None:
        wanted = {port: ("tensor(float)", self.manifest.size(width)) for port, width in expected.items()}
        found = {port.name: (port.type, port.shape[-1]) for port in ports}
        if found != wanted:
            raise LayoutError(f"{self.path / name}: {what}: expected {wanted}, found {found}")


def _session_options() -> ort.SessionOptions:
    # One thread, no arena: on a small shared box the defaults spin on every core and hold memory for good.
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return options


def _read_manifest(path: Path) -> bytes:
    if not path.is_dir():
        raise BundleError(f"{path}: expected a bundle folder, found {'a file' if path.exists() else 'nothing'}")
    file = path / MANIFEST
    size = _plain_size(file)
    if size > manifests.MANIFEST_LIMIT:
        raise ManifestError(f"{file}: expected at most {manifests.MANIFEST_LIMIT:,} bytes, found {size:,}")
    return file.read_bytes()


def _plain_size(file: Path) -> int:
    try:
        found = file.lstat()
    except FileNotFoundError as error:
        raise MissingFileError(f"{file}: expected a file, found nothing") from error
    if not stat.S_ISREG(found.st_mode):
        raise FileKindError(f"{file}: expected a plain file, found a link, folder or device")
    return found.st_size


def _check_labels(manifest: Manifest, where: Path) -> None:
    expected = {"features": list(features.INPUTS), "moods": list(MOODS), "components": list(COMPONENTS)}
    for key, value in expected.items():
        if getattr(manifest, key) != value:
            raise ManifestError(f"{where}: {key}: expected {value}, found {getattr(manifest, key)}")
    if set(manifest.files) != set(LAYOUT):
        lacking, unknown = sorted(set(LAYOUT) - set(manifest.files)), sorted(set(manifest.files) - set(LAYOUT))
        raise ManifestError(f"{where}: files: lacks {lacking or 'none'}, has unknown {unknown or 'none'}")


def _check_files(path: Path, manifest: Manifest) -> None:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if not file.is_dir() and name != MANIFEST and name not in manifest.files:
            raise ExtraFileError(f"{file}: expected only files that the manifest lists, found this one")
    for name, expected in manifest.files.items():
        size = _plain_size(path / name)
        if size != expected.bytes:
            raise SizeError(f"{path / name}: expected {expected.bytes:,} bytes, found {size:,}")
    for name, expected in manifest.files.items():
        with (path / name).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 != expected.sha256:
            raise HashError(f"{path / name}: expected SHA-256 {expected.sha256}, found {sha256}")
