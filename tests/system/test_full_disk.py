"""No room on the disk: one sentence that names the place, exit 2, nothing left behind. A limit on the size of a file
stands for the disk."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from musix_exporter import export
from musix_runtime.bundle import signature
from musix_runtime.errors import OutputError
from musix_runtime.models.parts import open_bundle
from musix_trainer.run import Run
from tests.runtime.test_atomic import full_disk

MUSIX = Path(sys.executable).with_name("musix")


def refused(*arguments: object, size: int, cwd: Path) -> str:
    """Return the output of the command when no file may be larger than `size`."""
    result = subprocess.run(
        [MUSIX, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert result.returncode == 2, result
    (line,) = result.stderr.splitlines()
    return line


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("command", "place", "size"),
    [
        ("unpack demo.musix out", "out", 400_000),
        ("pack BUNDLE out.musix", "out.musix", 400_000),
        ("keygen ours", "ours.pub", 0),
        ("keygen ours", "ours.key", 115),  # room for the public key only
        ("sign BUNDLE --key mine.key", "signature.json", 100),
        ("publish BUNDLE registry", "registry/demo", 400_000),
    ],
)
def test_commands_of_the_runtime(copy: Path, tmp_path: Path, command: str, place: str, size: int) -> None:
    open_bundle(copy).pack(tmp_path / "demo.musix")
    signature.generate(tmp_path / "mine")
    before = tree(tmp_path)
    output = refused(*command.replace("BUNDLE", str(copy)).split(), size=size, cwd=tmp_path)
    assert output.startswith("error: ")
    assert f"{place}: expected a place to write to, found: File too large" in output or place == "registry/demo"
    assert place in output
    assert str(copy) not in output or place == "signature.json"
    assert tree(tmp_path) == before


def test_a_run_and_its_export(demo_run: Run, tmp_path: Path) -> None:
    for size in (1_000, 20_000, 200_000):
        with full_disk(size), pytest.raises(OutputError, match="run: expected a place to write to, found: "):
            demo_run.save(tmp_path / "run")
        with full_disk(size), pytest.raises(OutputError, match="bundle: expected a place to write to, found: "):
            export.export(demo_run, tmp_path / "bundle")
        assert tree(tmp_path) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output(small_bundle: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [MUSIX, "inspect", small_bundle],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert result.returncode == 2
    assert result.stderr == (
        "error: standard output: expected one that can be used, found: No space left on device; "
        "check that it exists, that you may use it, and that its disk has room\n"
    )
