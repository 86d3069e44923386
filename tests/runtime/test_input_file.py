"""A file that a user names may be a pipe, a device or far too large: one sentence, at once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from musix_runtime.bundle import signature
from musix_runtime.bundle.manifest import MAX_RECIPE_BYTES
from musix_runtime.cli import queries
from musix_runtime.errors import InputError
from musix_runtime.input_file import MAX_BYTES, read_input
from musix_trainer import recipe
from musix_trainer.data import families, tables

MUSIX = Path(sys.executable).with_name("musix")


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def large(folder: Path) -> Path:
    with (folder / "large").open("wb") as file:
        file.truncate(2**40)
    return folder / "large"


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pipe": (fifo, "a pipe or device, not a plain file"),
    "device": (lambda folder: Path("/dev/zero"), "a pipe or device, not a plain file"),
    "large": (large, "more than {limit:,} bytes"),
    "folder": (lambda folder: folder, "Is a directory"),
    "missing": (lambda folder: folder / "nothing", "No such file or directory"),
}


READERS: dict[str, Callable[[Path], object]] = {
    "an Ed25519 public key in PEM": signature.read_key,
    "an Ed25519 private key in PEM": lambda path: signature.sign("a" * 64, path),
    "a JSON object or @FILE": lambda path: queries._json_argument(f"@{path}"),
    "a recipe file": recipe.read,
    "a file of genre families": families.read,
}


@pytest.mark.parametrize(("make", "found"), FILES.values(), ids=FILES)
@pytest.mark.parametrize(("expected", "read"), READERS.items(), ids=READERS)
def test_a_file_that_cannot_be_read_is_named_in_one_sentence(
    tmp_path: Path, expected: str, read: Callable[[Path], object], make: Callable[[Path], Path], found: str
) -> None:
    file = make(tmp_path)
    with pytest.raises(InputError) as caught:
        read(file)
    place = f"--features @{file}" if "@" in expected else file
    limit = MAX_RECIPE_BYTES if expected == "a recipe file" else MAX_BYTES
    assert str(caught.value) == f"{place}: expected {expected}, found: {found.format(limit=limit)}"


def test_open_files_and_links_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a" * MAX_BYTES)
    (tmp_path / "link").symlink_to("file")
    assert read_input(tmp_path / "link") == b"a" * MAX_BYTES
    with pytest.raises(InputError, match="embedded null"):
        read_input(Path("a\0b"))
    reader, writer = os.pipe()
    os.write(writer, b"text")
    os.close(writer)
    assert read_input(Path(f"/dev/fd/{reader}")) == b"text"
    os.close(reader)
    with pytest.raises(InputError, match="Bad file descriptor"):
        read_input(Path(f"/dev/fd/{reader}"))


@pytest.mark.parametrize(
    "command", ["cat ours.pub | MUSIX /dev/stdin", "MUSIX <(cat ours.pub)", "MUSIX /dev/stdin < ours.pub"]
)
def test_standard_input_is_a_file(copy: Path, tmp_path: Path, command: str) -> None:
    signature.generate(tmp_path / "ours")
    command = command.replace("MUSIX", f"{MUSIX} verify {copy} --trust")
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "expected a signature by the trusted key, found none" in result.stderr


def test_a_small_table_takes_little_memory(tmp_path: Path) -> None:
    """Whatever the limit of a table is."""
    (tmp_path / "tracks.csv").write_text("track_id\na\n")
    code = "import resource, sys; from pathlib import Path; from musix_trainer.data import tables;"
    code += f"resource.setrlimit(resource.RLIMIT_AS, ({tables.MAX_BYTES // 2},) * 2);"
    code += "print(tables.read(Path(sys.argv[1])).frame.rows())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "tracks.csv"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[('a',)]\n", "")


def test_a_file_of_many_labels_is_read_at_once(tmp_path: Path) -> None:
    labels = [f"label-{i}" for i in range(60_000)]
    (tmp_path / "own.toml").write_text(f"[families]\na = {labels}\nb = ['x']\nc = ['y']\n")
    assert len(families.read(tmp_path / "own.toml").labels["a"]) == 60_000


@pytest.mark.parametrize(
    "text",
    [
        "a." * 400_000 + "b = 1",
        "[" + "a . " * 200_000 + "b]",
        '"="."."' + '."="' * 40_000 + " = 1",
        "x = " + "[" * 5000,
    ],
)
def test_toml_that_would_take_long_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(InputError, match=r"found: (\d+,\d+ dots in line 1, at most 300|values that are)"):
        families.read(tmp_path / "own.toml")
