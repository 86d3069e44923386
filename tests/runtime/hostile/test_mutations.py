"""Random changes of bytes in a bundle are refused, or harmless. No crash, no hang."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from musix_runtime import Engine
from musix_runtime.bundle.reader import Bundle
from musix_runtime.errors import BundleError
from musix_runtime.golden import replay
from musix_runtime.models.parts import open_bundle

MUTATIONS = 2000


def mutations(path: Path, count: int, rng: np.random.Generator):
    """Yield `count` mutations, each of which overwrites 1 to 8 bytes at a random position."""
    content = path.read_bytes()
    for _ in range(count):
        start = int(rng.integers(len(content)))
        end = min(start + int(rng.integers(1, 9)), len(content))
        new = rng.bytes(end - start)
        if new != content[start:end]:
            with path.open("r+b") as file:
                file.seek(start)
                file.write(new)
            yield f"{path.name}, bytes {start} to {end}: {new!r}"
            with path.open("r+b") as file:
                file.seek(start)
                file.write(content[start:end])


def refused_or_harmless(bundle: Path, good: Bundle, what: str) -> bool:
    """Return whether the bundle is refused. Otherwise it must have another digest and the same answers."""
    try:
        engine = Engine.open(bundle)
    except BundleError:
        return True
    assert engine.bundle.digest != good.digest, what
    replay(engine, engine.golden())
    return False


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bundles(demo_bundle: Path, tmp_path: Path, seed: int) -> None:
    """Each has a quarter of the mutations, half of them in the manifest, which no hash protects."""
    good = open_bundle(demo_bundle)
    folder = Path(shutil.copytree(demo_bundle, tmp_path / "demo"))
    good.pack(tmp_path / "demo.musix")
    rng = np.random.default_rng(seed)
    share = MUTATIONS // 4
    names = rng.choice(sorted(good.views), share // 4)
    refused = harmless = 0
    places = [
        (folder / "manifest.json", share // 2, folder),
        (tmp_path / "demo.musix", share // 4, tmp_path / "demo.musix"),
    ]
    places += [(folder / str(name), 1, folder) for name in names]
    for file, count, bundle in places:
        for what in mutations(file, count, rng):
            if refused_or_harmless(bundle, good, what):
                refused += 1
            else:
                harmless += 1
    assert refused + harmless >= share - 5
    assert open_bundle(folder).digest == open_bundle(tmp_path / "demo.musix").digest == good.digest
