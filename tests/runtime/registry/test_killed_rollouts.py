"""Changes of a rollout whose process was killed between two files: the next command finishes what it began."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from musix_runtime import Registry
from musix_runtime.errors import StoreError
from musix_runtime.registry import experiments, rollouts
from tests.bundle_variants import copy_registry

# Does a change of a registry, and kills itself in place of the rename after a number of renames.
KILLED = """
import os, signal, sys
from pathlib import Path
from musix_runtime import Registry
from musix_runtime.registry import rollouts

path, change, renames = sys.argv[1:]
left = [None] * int(renames)
rename = Path.replace

def rename_or_die(self, target):
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left.pop()
    return rename(self, target)

Path.replace = rename_or_die
eval(change, {"rollouts": rollouts, "registry": Registry(Path(path))})
"""
START = "rollouts.start(registry, 'demo', '1.2.0', stages=(0.2, 0.4, 1), stage_ms=0, listeners=100, now_ms=1)"
ADVANCE = "rollouts.advance(registry, 'demo', 9, 'no worse', {})"


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Registry:
    """A registry with the live version 1.1.0, 1.0.0 before it, and the candidate 1.2.0."""
    return copy_registry(published, tmp_path / "store", ["1.1.0", "1.0.0"], candidates=("1.2.0",))


def start(store: Registry, advanced: int = 0) -> None:
    """Start the rollout of 1.2.0, and enter further stages."""
    rollouts.start(store, "demo", "1.2.0", stages=(0.2, 0.4, 1), stage_ms=0, listeners=100, now_ms=1)
    for _ in range(advanced):
        rollouts.advance(store, "demo", 2, "no worse", {})


def kill(store: Registry, change: str, renames: int) -> None:
    command = [sys.executable, "-c", KILLED, str(store.path), change, str(renames)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (-signal.SIGKILL, "")


def copies(store: Registry, count: int) -> list[Registry]:
    """Return copies of a registry, whose files are links: all writers replace files."""
    paths = [store.path.with_name(f"copy-{i}") for i in range(count)]
    return [Registry(shutil.copytree(store.path, path, copy_function=os.link)) for path in paths]


def start_experiment(store: Registry) -> None:
    experiments.start(store, "demo", treatment="popular", share=0.5, listeners=100, now_ms=3)


def settle(store: Registry) -> None:
    with store.settled("demo"):
        pass


def show(store: Registry) -> tuple[str, list[str], list[int | None]]:
    """Return the state of the rollout, what was live, and when the experiments were stopped."""
    stopped = [each.stopped_ms for each in experiments.read_all(store, "demo")]
    return rollouts.read(store, "demo").state, store.history("demo"), stopped


def begin_stage(store: Registry) -> None:
    """Leave what a start leaves that is killed after its first file."""
    start(store)
    (store.path / "demo" / "experiments" / "1.json").unlink()


def begin_last_stage(store: Registry) -> None:
    """Leave what an advance to the last stage leaves that is killed after its first file."""
    start(store, advanced=1)
    rollouts.FILES.write(store.folder("demo"), replace(rollouts.read(store, "demo"), stage=2))


FINISHED = "finished", ["1.2.0", "1.1.0", "1.0.0"], [2, 9]


@pytest.mark.parametrize(
    ("advanced", "change", "renames", "stopped", "aborted"),
    [
        pytest.param(None, START, 1, [None], [], id="start"),
        pytest.param(0, ADVANCE, 1, [9, None], [10], id="advance after the rollout"),
        pytest.param(0, ADVANCE, 2, [9, None], [10, 10], id="advance after the experiment"),
    ],
)
def test_a_stage_that_a_killed_process_began(
    store: Registry, advanced: int | None, change: str, renames: int, stopped: list[int | None], aborted: list[int]
) -> None:
    if advanced is not None:
        start(store, advanced)
    kill(store, change, renames)
    (aborting,) = copies(store, 1)
    assert rollouts.hold(store, "demo", 10).experiment == len(stopped)
    assert show(store) == ("held", ["1.1.0", "1.0.0"], stopped)
    assert experiments.running(store, "demo") == experiments.read(store, "demo")
    assert rollouts.abort(aborting, "demo", 10).state == "aborted"
    assert show(aborting) == ("aborted", ["1.1.0", "1.0.0"], aborted)  # no experiment is started first


@pytest.mark.parametrize(("renames", "state"), [(1, "running"), (2, "running"), (3, "finished")])
def test_a_version_that_a_killed_process_was_to_make_live(store: Registry, renames: int, state: str) -> None:
    start(store, advanced=1)
    kill(store, ADVANCE, renames)
    assert rollouts.read(store, "demo").state == state
    (aborting,) = copies(store, 1)
    with pytest.raises(StoreError, match="found demo/1, which is finished"):
        rollouts.hold(store, "demo", 10)
    assert show(store) == FINISHED
    assert store.rollback("demo").name == "1.1.0"
    settle(store)
    assert show(store) == ("finished", ["1.1.0", "1.0.0"], [2, 9])  # it is made live once
    if renames == 1:
        assert rollouts.abort(aborting, "demo", 10).state == "aborted"
        assert show(aborting) == ("aborted", ["1.1.0", "1.0.0"], [2, 10])  # it is not made live first
    else:
        with pytest.raises(StoreError, match="found demo/1, which is finished"):
            rollouts.abort(aborting, "demo", 10)
        assert show(aborting) == FINISHED


def test_a_killed_abort(store: Registry) -> None:
    start(store)
    kill(store, "rollouts.abort(registry, 'demo', 2)", 1)
    with pytest.raises(StoreError, match="found demo/1, which is aborted"):
        rollouts.abort(store, "demo", 3)
    assert show(store) == ("aborted", ["1.1.0", "1.0.0"], [2])


def test_each_command_begins_the_stage_first(store: Registry, published: Path) -> None:
    begin_stage(store)
    newer = published / "demo" / "1.2.0"
    commands = start_experiment, lambda copy: copy.publish(newer), lambda copy: copy.rollback("demo"), start
    for copy, command in zip(copies(store, 4), commands, strict=True):
        with pytest.raises(StoreError, match="expected no rollout, found demo/1; to end it, use: musix rollout abort"):
            command(copy)
        assert show(copy) == ("running", ["1.1.0", "1.0.0"], [None])
    assert store.gc("demo", keep=0) == [store.path / "demo" / "1.0.0"]  # not the version of the rollout
    assert show(store) == ("running", ["1.1.0"], [None])


def test_each_command_makes_the_version_live_first(store: Registry, published: Path) -> None:
    begin_last_stage(store)
    stopping, advancing, publishing, starting, cleaning = copies(store, 5)
    with pytest.raises(StoreError, match="expected a running experiment, found none"):
        experiments.stop(stopping, "demo", 10)
    with pytest.raises(StoreError, match="found demo/1, which is finished"):
        rollouts.advance(advancing, "demo", 10, "", {})
    with pytest.raises(StoreError, match=r"expected at least the live version 1.2.0, found 1.1.0"):
        publishing.publish(published / "demo" / "1.1.0")
    for copy in (stopping, advancing, publishing):
        assert show(copy) == ("finished", ["1.2.0", "1.1.0", "1.0.0"], [2, 2])
    start_experiment(starting)
    assert experiments.read(starting, "demo").control == "1.2.0"
    assert cleaning.gc("demo", keep=0) == [cleaning.path / "demo" / name for name in ("1.0.0", "1.1.0")]
    assert store.rollback("demo").name == "1.1.0"


def test_a_version_that_is_gone_is_not_made_live(store: Registry, published: Path) -> None:
    start(store, advanced=1)
    shutil.rmtree(store.path / "demo" / "1.2.0")
    advice = (
        r"1.2.0, which is missing; publish it with: musix publish BUNDLE \S+ --candidate; to end the rollout, use: "
    )
    with pytest.raises(StoreError, match=rf"{advice}musix rollout abort \S+ demo$"):
        rollouts.advance(store, "demo", 9, "no worse", {})
    assert show(store) == ("running", ["1.1.0", "1.0.0"], [2, None])
    store.publish(published / "demo" / "1.2.0", candidate=True)
    assert rollouts.advance(store, "demo", 9, "no worse", {}).state == "finished"


def test_a_version_that_is_gone_after_a_killed_process(store: Registry, published: Path) -> None:
    begin_last_stage(store)
    shutil.rmtree(store.path / "demo" / "1.2.0")
    aborting, publishing = copies(store, 2)
    with pytest.raises(StoreError, match=r"1.2.0, which is missing; publish it .* use: musix rollout abort"):
        store.rollback("demo")
    assert rollouts.abort(aborting, "demo", 9).state == "aborted"
    assert aborting.rollback("demo").name == "1.0.0"
    publishing.publish(published / "demo" / "1.2.0", candidate=True)
    assert publishing.rollback("demo").name == "1.1.0"


def make_live(store: Registry) -> None:
    begin_stage(store)
    with store.writing("demo") as folder:
        store.make_live(folder, "1.2.0")


def take_the_number(store: Registry) -> None:
    begin_stage(store)
    rollout = rollouts.read(store, "demo")
    (store.path / "demo" / "rollouts" / "1.json").unlink()
    start_experiment(store)
    rollouts.FILES.write(store.folder("demo"), rollout)


@pytest.mark.parametrize(
    ("change", "message", "running"),
    [
        (make_live, "expected another one than the control, found '1.2.0'; to end the rollout, use: musix ro", None),
        (take_the_number, "expected an experiment of rollout demo/1 as the latest, found demo/1; to end the", "demo/1"),
    ],
)
def test_a_stage_that_cannot_begin(
    store: Registry, change: Callable[[Registry], None], message: str, running: str | None
) -> None:
    """Whatever changed the registry then, such as an earlier release: the rollout can be aborted."""
    change(store)
    live = store.history("demo")
    for command in (settle, start, lambda store: rollouts.hold(store, "demo", 9)):
        with pytest.raises(StoreError, match=message):
            command(store)
    assert rollouts.abort(store, "demo", 9).state == "aborted"
    found = experiments.running(store, "demo")
    assert (found.id if found else None, store.history("demo")) == (running, live)


def test_rollback_by_the_advice_about_a_broken_experiment(store: Registry) -> None:
    start(store)
    file = store.path / "demo" / "experiments" / "1.json"
    file.write_text("{")
    advice = "experiments/1.json: .* mend it, or remove it: its experiment then ends, but the stage of a rollout begins"
    for command in (
        store.rollback,
        lambda name: experiments.stop(store, name, 9),
        lambda name: start(store),
        lambda name: rollouts.abort(store, name, 9),
    ):
        with pytest.raises(StoreError, match=advice) as caught:
            command("demo")
        assert "rollout abort" not in str(caught.value)  # it would find the same
    assert rollouts.read(store, "demo").state == "running"
    file.unlink()
    with pytest.raises(StoreError, match="to end it, use: musix rollout abort"):
        store.rollback("demo")
    rollouts.abort(store, "demo", 9)
    assert store.rollback("demo").name == "1.0.0"
    assert show(store) == ("aborted", ["1.0.0"], [9])


def test_rollback_by_the_advice_about_a_broken_rollout(store: Registry) -> None:
    start(store)
    file = store.path / "demo" / "rollouts" / "1.json"
    file.write_text("{")
    advice = "rollouts/1.json: .* mend it, or remove it: its rollout then ends with the next command"
    for command in (store.rollback, lambda name: rollouts.abort(store, name, 9), lambda name: start(store)):
        with pytest.raises(StoreError, match=advice):
            command("demo")
    file.unlink()
    assert store.rollback("demo").name == "1.0.0"
    assert experiments.running(store, "demo") is None


def test_a_stage_ends_no_earlier_than_it_began(store: Registry) -> None:
    """Whatever the clocks of the machines say."""
    start(store)
    rollouts.advance(store, "demo", 9, "no worse", {})
    rollouts.abort(store, "demo", 3)
    assert show(store) == ("aborted", ["1.1.0", "1.0.0"], [9, 9])


def test_a_reason_that_is_not_utf8(store: Registry) -> None:
    start(store)
    with pytest.raises(StoreError, match=r"demo: expected a rollout of text in UTF-8, found 'too \\udcff slow'"):
        rollouts.abort(store, "demo", 9, "too \udcff slow")
    assert show(store) == ("running", ["1.1.0", "1.0.0"], [None])
