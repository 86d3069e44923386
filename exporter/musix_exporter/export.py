"""Export of a run to a bundle folder. The manifest is written last."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from importlib.metadata import version
from pathlib import Path

import msgspec

from musix_exporter import golden, parity
from musix_exporter.bundle_writer import BundleWriter, PartWriter
from musix_exporter.part import Part
from musix_exporter.parts import PARTS
from musix_runtime.atomic import new_folder
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle.manifest import FORMAT, FORMAT_VERSION, GOLDEN, MANIFEST, File, Manifest
from musix_runtime.bundle.part import Layout
from musix_runtime.bundle.reader import Bundle
from musix_runtime.engine import Engine
from musix_runtime.golden import Golden, replay
from musix_trainer.pipeline import deterministic
from musix_trainer.run import Run


def export(
    run: Run,
    path: Path,
    replace: bool = False,
    check: Callable[[Bundle], None] | None = None,
    parts: Sequence[Part] = PARTS,
) -> Bundle:
    """Write the bundle folder `path`, whole or not at all: convert the parts, measure parity, verify.

    `check` is called with the verified bundle before it appears at `path`. When it raises an error, no bundle is
    written, and an older one is kept. Raises ParityError when the error of a converted part is above its tolerance,
    OutputError when `path` exists and `replace` is False.
    """
    runtime_parts, run = tuple(part.runtime for part in parts), run.served()
    with new_folder(path, replace) as target:
        writer = BundleWriter(target, Layout(runtime_parts))
        for part in parts:
            part.convert(run, PartWriter(part.name, writer))
        writer.add_bytes(GOLDEN, msgspec.json.encode(Golden({}, [], [])))  # a placeholder: the cases need an engine
        _write(_manifest(run, writer, {}), target)
        engine = Engine.from_bundle(Bundle.open(target, runtime_parts))
        with deterministic():  # PyTorch takes several times longer for small matrices on many threads
            errors = parity.measure(run, engine, parts)
            writer.add_bytes(GOLDEN, msgspec.json.encode(golden.cases(run, engine, parts)))
        _write(_manifest(run, writer, errors), target)
        engine = Engine.open(target, parts=runtime_parts)
        replay(engine, engine.golden())
        if check:
            check(engine.bundle)
    return changed(engine.bundle, path=path)


def _write(manifest: Manifest, target: Path) -> None:
    (target / MANIFEST).write_bytes(manifests.encode(manifest))


def _manifest(run: Run, writer: BundleWriter, errors: dict[str, float]) -> Manifest:
    settings = run.recipe
    return Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        name=settings.name,
        version=settings.version,
        families=run.catalogue.labels,
        counts=writer.counts,
        serving=run.retriever().serving,
        indexes=writer.indexes,
        files={name: _file(writer.root / name) for name in writer.layout.files},
        parity=errors,
        quality=run.quality,
        provenance=msgspec.structs.replace(run.provenance, packages=run.provenance.packages | _packages()),
        **writer.layout.labels,
    )


def _packages() -> dict[str, str]:
    return {name: version(name) for name in ("onnx", "onnxmltools", "onnxruntime", "onnxscript", "skl2onnx")}


def _file(path: Path) -> File:
    content = path.read_bytes()
    return File(len(content), hashlib.sha256(content).hexdigest())
