"""Atomic writes by real processes: killed, concurrent, and with a full disk."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from musix_runtime.atomic import new_folder, new_path, remove, write_file
from musix_runtime.errors import OutputError

FORK = multiprocessing.get_context("fork")
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock")
FILES = ("a", "b/c", "d")


def fill(folder: Path, version: str) -> None:
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(version)


def version(folder: Path) -> str:
    """Return the version that all files of a folder have."""
    (result,) = {(folder / name).read_text() for name in FILES}
    return result


def replace_until(event: int, path: Path) -> None:
    """Replace the folder, and kill this process before the `event`-th operation on the disk.

    Only for a child process: the audit hook cannot be removed.
    """
    left = iter(range(event))

    def die(name: str, arguments: object) -> None:
        if name in EVENTS and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    with new_folder(path, replace=True) as folder:
        fill(folder, "new")


def ended(target: object, *arguments: object) -> int | None:
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_killed_writer_leaves_the_old_or_the_new_version(tmp_path: Path) -> None:
    path, kills, result = tmp_path / "thing", 0, set()
    fill(new(path), "old")
    while ended(replace_until, kills, path) == -signal.SIGKILL:
        kills += 1
        with pytest.raises(KeyError), new_folder(path, replace=True):
            raise KeyError  # the next writer puts right what it finds, even when it writes nothing
        assert [item.name for item in tmp_path.iterdir()] == ["thing"]
        result.add(version(path))
        fill(path, "old")
    assert kills > 10
    assert result == {"old", "new"}
    assert version(path) == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["thing"]


def new(path: Path) -> Path:
    path.mkdir()
    return path


def write_slowly(path: Path, begun: Event, finish: Event) -> None:
    with new_folder(path, replace=True) as folder:
        fill(folder, "slow")
        begun.set()
        finish.wait()


def test_second_writer_raises_and_the_first_finishes(tmp_path: Path) -> None:
    begun, finish = FORK.Event(), FORK.Event()
    first = FORK.Process(target=write_slowly, args=(tmp_path / "thing", begun, finish))
    first.start()
    begun.wait()
    for _ in range(2):
        with (
            pytest.raises(OutputError, match=r"thing.lock: expected no other writer, found one; wait"),
            new_folder(tmp_path / "thing", replace=True),
        ):
            pass
    finish.set()
    first.join()
    assert first.exitcode == 0
    assert version(tmp_path / "thing") == "slow"
    assert [item.name for item in tmp_path.iterdir()] == ["thing"]


def test_concurrent_writers_leave_no_lock(tmp_path: Path) -> None:
    started = [FORK.Process(target=write_until_done, args=(tmp_path / "thing", str(i))) for i in range(8)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 8
    assert version(tmp_path / "thing") in set(map(str, range(8)))
    assert [item.name for item in tmp_path.iterdir()] == ["thing"]


def write_until_done(path: Path, content: str) -> None:
    while True:
        try:
            with new_folder(path, replace=True) as folder:
                fill(folder, content)
        except OutputError:
            continue
        return


@pytest.mark.parametrize("use", ["partial", "lock"])
def test_links_at_hidden_names_are_not_followed(tmp_path: Path, use: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".thing.{use}").symlink_to(victim)
    if use == "lock":
        with pytest.raises(OutputError, match="thing: expected a place to write to, found: Too many levels of symb"):
            write_file(tmp_path / "thing", b"new")
    else:
        write_file(tmp_path / "thing", b"new")
        assert (tmp_path / "thing").read_bytes() == b"new"
    assert victim.read_text() == "mine"


def test_only_a_file_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(OutputError, match=f"{name}: expected a free name or a plain file to replace"):
            write_file(tmp_path / name, b"new")
    (tmp_path / "file").touch()
    for name in ("link", "pipe", "file"):
        with (
            pytest.raises(OutputError, match=f"{name}: expected a folder to replace"),
            new_folder(tmp_path / name, True),
        ):
            pass
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder", "link", "pipe"]
    assert not (tmp_path / "elsewhere").exists()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Limit files to `size` bytes, like a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_old_version(tmp_path: Path) -> None:
    write_file(tmp_path / "thing", b"old")
    with (
        full_disk(1000),
        pytest.raises(OutputError, match="thing: expected a place to write to, found: File too"),
    ):
        write_file(tmp_path / "thing", bytes(2000))
    assert (tmp_path / "thing").read_bytes() == b"old"
    with full_disk(1000), pytest.raises(OutputError), new_path(tmp_path / "more") as partial:
        partial.write_bytes(bytes(2000))
    assert [item.name for item in tmp_path.iterdir()] == ["thing"]


def test_an_array_that_does_not_fit_on_the_disk_is_reported_like_a_file(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(OutputError) as caught, new_path(tmp_path / "array") as partial:
        np.save(partial.with_suffix(".npy"), np.zeros(2000))
    assert str(caught.value) == f"{tmp_path / 'array'}: expected a place to write to, found: No space left on device"


def test_folders_deeper_than_a_recursion_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "a" / "file").mkdir(parents=True)
    for _ in range(1_500):  # from inside out: a path of all names at once would be made by a recursion
        (tmp_path / "next").mkdir()
        (folder / "a").rename(tmp_path / "next" / "a")
        (tmp_path / "next").rename(folder / "a")
    (folder / "a").chmod(0o500)
    remove(folder)
    assert not [*tmp_path.iterdir()]
