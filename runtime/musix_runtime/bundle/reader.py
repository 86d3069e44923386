"""A bundle that is verified before it is used: signature, then sizes and hashes, then layout and values."""

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from musix_runtime.atomic import new_path
from musix_runtime.bundle import faiss_check, manifest_check, onnx_check, signature
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle.archive import Container, Stamp, View, stamp, write_folder, write_packed
from musix_runtime.bundle.manifest import GOLDEN, MAX_GOLDEN_BYTES, MAX_KEY_BYTES, Dim, Manifest
from musix_runtime.bundle.part import Layout, Part
from musix_runtime.bundle.part_files import PartFiles
from musix_runtime.bundle.validation import Checks
from musix_runtime.errors import HashError, LayoutError, OutputError, refusing

T = TypeVar("T")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Make one with `Bundle.open`."""

    path: Path
    manifest: Manifest
    digest: str
    layout: Layout
    container: Container
    views: dict[str, View]  # the listed files, mapped: the verified bytes are those that are used
    stamp: Stamp  # of the mapped files; when it changes, so may the mapped bytes
    trust: Path | None = None  # the public key that the signature was verified with

    @property
    def name(self) -> str:
        """`NAME-VERSION`."""
        return f"{self.manifest.name}-{self.manifest.version}"

    @property
    def label(self) -> str:
        """`NAME-VERSION@digest`, as in the headers of HTTP responses."""
        return f"{self.name}@{self.digest}"

    @classmethod
    def open(cls, path: str | Path, parts: Sequence[Part[Any]], trust: str | Path | None = None) -> "Bundle":
        """Verify the bundle folder or packed file at `path`, which must have exactly these parts.

        With `trust`, the file of a public key, the bundle must be signed with the private key of the pair. The
        signature is checked before anything is parsed. Raises BundleError, and InputError for a file that is not a
        public key.
        """
        path = Path(path)
        layout = Layout(tuple(parts))
        key = None if trust is None else signature.read_key(Path(trust))
        with refusing(path):
            before = stamp(path, layout.files)
            container = Container.open(path)
            digest = manifests.digest(container.manifest)
            if key is not None:
                signature.check(digest, container.signature, key, path)
            manifest = manifests.decode(container.manifest, str(path))
            manifest_check.check(manifest, layout, path)
            views = container.views(manifest)
            _check_hashes(path, manifest, views)
            trusted = None if trust is None else Path(trust)
            bundle = cls(path, manifest, digest, layout, container, views, before, trusted)
            bundle._validate()
            if stamp(path, layout.files) != before:
                raise HashError(
                    f"{path}: expected files that are not being written, found them changed while they were verified"
                )
            return bundle

    def _validate(self) -> None:
        """Check the content of all graphs, indexes and arrays, in as many threads as there are cores."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            opened = threads.submit(lambda: self._sessions), threads.submit(lambda: self._indexes)
            for _ in threads.map(lambda part: part.validate(Checks(part.name, self)), self.layout.parts):
                pass
            for each in opened:
                each.result()

    def load(self) -> dict[str, Any]:
        """Return the model of each part, by name. Raises LayoutError."""
        return {part.name: part.load(PartFiles(part.name, self)) for part in self.layout.parts}

    def pack(self, path: Path) -> None:
        """Write the bundle as one file, whole or not at all.

        Raises OutputError when `path` exists or is in the bundle.
        """
        self.check_outside(path)
        with new_path(path) as partial:
            write_packed(self.container, self.manifest, self.views, partial)

    def unpack(self, path: Path) -> None:
        """Write the bundle as a folder: see `pack`."""
        self.check_outside(path)
        with new_path(path) as partial:
            write_folder(self.container, self.views, partial)

    def check_outside(self, path: Path) -> None:
        """Raise OutputError for a path in the folder of the bundle, which may have no other files."""
        if self.container.packed is None and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.path)):
            raise OutputError(f"{path}: expected a place outside of the bundle {self.path}, found one in it")

    def copy(self, path: Path) -> None:
        """Write the bundle to the new `path`, as a folder if it is one, else as a file. Raises OSError."""
        if self.container.packed is None:
            write_folder(self.container, self.views, path)
        else:
            write_packed(self.container, self.manifest, self.views, path)

    def array(self, name: str) -> NDArray[Any]:
        """Return a mapped array. Raises LayoutError unless dtype, order, shape and length are those of the format."""
        expected = self.layout.arrays[name]
        view = self.views[name]
        head = io.BytesIO(view[:512].tobytes())
        try:
            version = np.lib.format.read_magic(head)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
        except Exception as error:  # numpy reads the header as a Python expression
            raise LayoutError(f"{self.path}: {name}: expected a .npy file of version 1.0, found: {error}") from error
        wanted = (expected.dtype, tuple(self.manifest.size(dim) for dim in expected.shape), False, (1, 0))
        found = (dtype.kind if expected.dtype == "S" else dtype.str, shape, fortran, version)
        if found != wanted or dtype.hasobject:
            raise LayoutError(
                f"{self.path}: {name}: expected (dtype, shape, Fortran order, version) {wanted}, found {found}"
            )
        if dtype.kind == "S" and not 0 < dtype.itemsize <= MAX_KEY_BYTES:
            raise LayoutError(f"{self.path}: {name}: expected keys of 1 to {MAX_KEY_BYTES:,} bytes, found {dtype.str}")
        if view.size - head.tell() != dtype.itemsize * prod(shape):
            raise LayoutError(f"{self.path}: {name}: expected only {shape} of {dtype.str}, found {view.size:,} bytes")
        return np.ndarray(shape, dtype, view, head.tell())

    def session(self, name: str) -> ort.InferenceSession:
        """Return the ONNX Runtime session of a file."""
        return self._sessions[name]

    @cached_property
    def _sessions(self) -> dict[str, ort.InferenceSession]:
        return {name: self._session(name) for name in self.layout.graphs}

    def _session(self, name: str) -> ort.InferenceSession:
        """Open a graph. Raises LayoutError unless inputs and outputs are those of the format."""
        expected = self.layout.graphs[name]
        shapes = {port: tuple(map(self.manifest.size, axes)) for port, axes in expected.input_shapes.items()}
        data = self.views[name].tobytes()
        try:
            onnx_check.check(data, shapes, list(expected.output_widths), expected.trees)
            session = ort.InferenceSession(data, _session_options(expected.arena), ["CPUExecutionProvider"])
            session._model_bytes = None  # which it would keep to open the graph again for another kind of processor
        except Exception as error:  # onnxruntime's errors have no common base class below Exception
            raise LayoutError(f"{self.path}: {name}: expected an ONNX graph, found: {error}") from error
        widths = {port: axes[-1] for port, axes in expected.input_shapes.items()}
        self._check_ports(name, "inputs", widths, session.get_inputs())
        self._check_ports(name, "outputs", expected.output_widths, session.get_outputs())
        return session

    def index(self, name: str) -> Any:
        """Return the index of a file."""
        return self._indexes[name]

    @cached_property
    def _indexes(self) -> dict[str, Any]:
        return {name: self._index(name) for name in self.layout.indexes}

    def _index(self, name: str) -> Any:
        """Open an index. Raises LayoutError when it differs from the manifest."""
        file, info = self.layout.indexes[name], self.manifest.indexes[name]
        vectors = self.array(file.vectors)
        try:
            faiss_check.check(self.views[name], info.kind, len(vectors), vectors.shape[1], info.nlist)
            return file.read(vectors, self.views[name], info)
        except RuntimeError as error:
            raise LayoutError(f"{self.path}: {name}: expected a FAISS index, found: {error}") from error
        except ValueError as error:
            raise LayoutError(f"{self.path}: {name}: {error}") from error

    def golden(self, type_: type[T]) -> T:
        """Return the golden cases, decoded as `type_`. Raises LayoutError."""
        if self.views[GOLDEN].size > MAX_GOLDEN_BYTES:
            raise LayoutError(f"{self.path}: {GOLDEN}: expected at most {MAX_GOLDEN_BYTES:,} bytes, found more")
        try:
            return msgspec.json.decode(self.views[GOLDEN].data, type=type_)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LayoutError(f"{self.path}: {GOLDEN}: expected golden cases, found: {error}") from error

    def _check_ports(self, name: str, kind: str, expected: dict[str, Dim], ports: list[Any]) -> None:
        wanted = {port: ("tensor(float)", self.manifest.size(width)) for port, width in expected.items()}
        found = {port.name: (port.type, port.shape[-1] if port.shape else None) for port in ports}
        if found != wanted:
            raise LayoutError(f"{self.path}: {name}: {kind}: expected {wanted}, found {found}")


def _session_options(arena: bool) -> ort.SessionOptions:
    # With the defaults, ONNX Runtime spins on all cores and never returns memory: too much for a small shared host.
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 4  # names of a graph are not printed; what is wrong raises an error
    options.enable_mem_pattern = False
    return options


def _check_hashes(path: Path, manifest: Manifest, views: dict[str, View]) -> None:
    """Raise HashError for a file with another SHA-256. Files are hashed on all cores, the largest first."""
    names = sorted(views, key=lambda name: -views[name].size)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = dict(
            zip(names, threads.map(lambda name: hashlib.sha256(views[name].data).hexdigest(), names), strict=True)
        )
    for name in views:
        if found[name] != manifest.files[name].sha256:
            raise HashError(f"{path}: {name}: expected SHA-256 {manifest.files[name].sha256}, found {found[name]}")
