import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from musix_runtime import Registry
from musix_runtime.errors import StoreError, UnknownRolloutError
from musix_runtime.registry import experiments, rollouts
from musix_runtime.registry.rollouts import Rollout
from tests.bundle_variants import copy_registry

MUSIX = Path(sys.executable).with_name("musix")
USERS = [f"listener-{i:03d}" for i in range(200)]


@pytest.fixture
def store(published: Path, tmp_path: Path) -> Registry:
    """A registry with the live version 1.0.0 and the candidate 1.1.0."""
    return copy_registry(published, tmp_path / "store", ["1.0.0"], candidates=("1.1.0",))


def start(store: Registry, **changes: Any) -> Rollout:
    wanted: dict[str, Any] = {
        "version": "1.1.0",
        "stages": (0.2, 0.4, 1),
        "stage_ms": 10,
        "listeners": 100,
        "now_ms": 1,
    }
    return rollouts.start(store, "demo", **(wanted | changes))


def advance(store: Registry, now_ms: int = 2) -> Rollout:
    return rollouts.advance(store, "demo", now_ms, "no worse", {"skip_rate": 0.1})


def treated(store: Registry) -> set[str]:
    """Return the users that get the version."""
    experiment = experiments.running(store, "demo")
    return {user for user in USERS if experiment and experiment.variant(user) == "treatment"}


def musix(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MUSIX, "rollout", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_a_candidate_is_not_live(store: Registry) -> None:
    assert store.history("demo") == ["1.0.0"]
    assert store.versions("demo") == ["1.0.0", "1.1.0"]


def test_a_candidate_needs_a_live_version(published: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a live version beside a candidate, found none"):
        Registry(tmp_path / "new").publish(published / "demo" / "1.0.0", candidate=True)
    assert not (tmp_path / "new").exists()


def test_a_rollout_reaches_more_users_until_the_version_is_live(store: Registry) -> None:
    started = start(store)
    first = treated(store)
    assert (started.state, started.share, started.experiment) == ("running", 0.2, 1)
    assert experiments.read(store, "demo").control == "1.0.0"
    second = advance(store)
    assert (second.state, second.share, second.experiment) == ("running", 0.4, 2)
    assert first < treated(store)
    assert 0.1 * len(USERS) < len(first) < 0.3 * len(USERS) < len(treated(store)) < 0.5 * len(USERS)
    assert experiments.read(store, "demo", 1).stopped_ms == 2
    finished = advance(store, 3)
    assert (finished.state, finished.share) == ("finished", 1)
    assert store.history("demo") == ["1.1.0", "1.0.0"]
    assert experiments.running(store, "demo") is None
    assert [(entry.time_ms, entry.action, entry.share) for entry in finished.journal] == [
        (1, "start", 0.2),
        (2, "advance", 0.4),
        (3, "advance", 1),
    ]
    assert finished.journal[1].evidence == {"skip_rate": 0.1}
    assert rollouts.read(store, "demo") == rollouts.read(store, "demo", 1) == finished


def test_an_aborted_rollout_leaves_the_live_version(store: Registry) -> None:
    start(store)
    aborted = rollouts.abort(store, "demo", 5, "skip rate")
    assert (aborted.state, aborted.share, aborted.journal[-1].reason) == ("aborted", 0, "skip rate")
    assert store.history("demo") == ["1.0.0"]
    assert treated(store) == set()
    with pytest.raises(StoreError, match="expected a rollout that is running, found demo/1, which is aborted"):
        advance(store)
    assert start(store).number == 2


def test_a_rollout_that_is_held_keeps_its_share(store: Registry) -> None:
    start(store)
    users = treated(store)
    assert rollouts.hold(store, "demo", 2).state == "held"
    assert treated(store) == users
    with pytest.raises(StoreError, match="which is held"):
        advance(store)
    assert rollouts.resume(store, "demo", 3).state == "running"
    assert advance(store).share == 0.4


def test_the_journal_has_the_newest_entries(store: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MAX_JOURNAL", 3)
    start(store)
    for _ in range(3):
        rollouts.hold(store, "demo", 2)
        rollouts.resume(store, "demo", 3)
    assert [entry.action for entry in rollouts.read(store, "demo").journal] == ["resume", "hold", "resume"]


def test_one_experiment_or_rollout_at_a_time(store: Registry) -> None:
    start(store)
    use = re.escape(shlex.join(["musix", "rollout", "abort", str(store.path), "demo"]))
    with pytest.raises(StoreError, match=f"expected no rollout, found demo/1; to end it, use: {use}$"):
        start(store)
    with pytest.raises(StoreError, match="use: musix rollout abort"):
        experiments.start(store, "demo", treatment="1.1.0", share=0.5, listeners=100, now_ms=1)
    with pytest.raises(StoreError, match="use: musix rollout abort"):
        experiments.stop(store, "demo", 1)
    rollouts.abort(store, "demo", 2)
    experiments.start(store, "demo", treatment="1.1.0", share=0.5, listeners=100, now_ms=1)
    with pytest.raises(StoreError, match="use: musix experiment stop"):
        start(store)


def test_the_live_version_stays_while_versions_are_compared(store: Registry, published: Path) -> None:
    """What is live would not answer: listeners would keep the versions that are compared."""
    store.publish(published / "demo" / "1.1.0")
    store.rollback("demo")
    store.publish(published / "demo" / "1.0.0")
    newer = published / "demo" / "1.1.0"
    start(store)
    for change in (lambda: store.publish(newer), lambda: store.rollback("demo")):
        with pytest.raises(StoreError, match="expected no rollout, found demo/1; to end it, use: musix rollout abort"):
            change()
    rollouts.abort(store, "demo", 2)
    experiments.start(store, "demo", treatment="1.1.0", share=0.5, listeners=100, now_ms=1)
    for change in (lambda: store.publish(newer), lambda: store.rollback("demo")):
        with pytest.raises(StoreError, match="expected no running experiment, found demo/2; use: musix experiment"):
            change()
    assert store.history("demo") == ["1.0.0"]
    store.publish(published / "demo" / "1.0.0")
    store.publish(newer, candidate=True)
    experiments.stop(store, "demo", 2)
    store.publish(newer)
    experiments.start(store, "demo", control="popular", treatment="blend", share=0.5, listeners=100, now_ms=1)
    store.rollback("demo")
    assert store.history("demo") == ["1.0.0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.0.0"}, "expected another version than the live one, found 1.0.0"),
        ({"version": ""}, "demo: expected a version such as 1.2.0, found ''"),
        ({"version": "../demo/1.1.0"}, "demo: expected a version such as 1.2.0, found '../demo/1.1.0'"),
        ({"version": "9.0.0"}, "expected a published version, found 9.0.0, which is missing"),
        ({"stages": (0.4, 0.2, 1)}, "demo: stages: expected growing shares, the last of them 1"),
        ({"stages": (0.2, 0.4)}, "stages: expected growing shares, the last of them 1"),
        ({"stages": (0.0, 1)}, r">= 1e-06 - at `\$.stages"),
        ({"stages": (1e-320, 1)}, r">= 1e-06 - at `\$.stages"),
        ({"stages": (1,)}, "length >= 2"),
        ({"listeners": 9}, ">= 100"),
        ({"max_harm": float("nan")}, "max"),
        ({"max_harm": float("inf")}, "max"),
        ({"stages": (float("nan"), 1)}, "stages"),
        ({"metric": "charm"}, "charm"),
    ],
)
def test_start_with_wrong_values(store: Registry, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        start(store, **changes)
    assert experiments.running(store, "demo") is None
    with pytest.raises(UnknownRolloutError):
        rollouts.read(store, "demo")


@pytest.mark.parametrize("stages", [0, 1])
def test_a_command_completes_what_a_killed_one_began(store: Registry, stages: int) -> None:
    """The file of the rollout is written first; the process ended before anything followed."""
    started = start(store)
    for _ in range(stages):
        started = advance(store)
    folder, entry = store.folder("demo"), started.journal[-1]
    last = started.stages[stages + 1] == 1
    further = replace(started, stage=stages + 1, journal=(*started.journal, replace(entry, time_ms=9)))
    further = further if last else replace(further, experiment=stages + 2)
    rollouts.FILES.write(folder, further)
    if last:
        with pytest.raises(StoreError, match="which is finished"):
            advance(store)
        assert store.history("demo")[0] == "1.1.0"
        assert experiments.running(store, "demo") is None
    else:
        assert rollouts.hold(store, "demo", 10).experiment == 2
        assert experiments.running(store, "demo") == experiments.read(store, "demo", 2)
        assert experiments.read(store, "demo", 1).stopped_ms == 9


def test_what_was_rolled_back_after_a_rollout_stays_so(store: Registry) -> None:
    start(store)
    advance(store)
    advance(store)
    assert musix("status", store.path, "demo").stdout.startswith(
        "rollout demo/1: 1.1.0 for 100% of the listeners, finished\n"
    )
    store.rollback("demo")
    with pytest.raises(StoreError, match="which is finished"):
        advance(store)
    assert store.history("demo") == ["1.0.0"]
    status = musix("status", store.path, "demo").stdout.splitlines()[0]
    assert status == "rollout demo/1: 1.1.0 for 0% of the listeners, finished; 1.0.0 is live now"
    assert json.loads(musix("status", store.path, "demo", "--json").stdout)["live"] == "1.0.0"


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content | {"state": "paused"},
        lambda content: content | {"stage": 3},
        lambda content: content | {"number": 2},
        lambda content: content | {"other": 1},
        lambda content: content | {"journal": []},
        lambda content: content | {"journal": [content["journal"][0] | {"timeMs": 10**15}]},
        lambda content: [content],
    ],
)
def test_a_file_that_is_no_rollout(store: Registry, edit: Callable[[Any], Any]) -> None:
    start(store)
    file = store.path / "demo" / "rollouts" / "1.json"
    file.write_text(json.dumps(edit(json.loads(file.read_text()))))
    with pytest.raises(StoreError, match=r"rollouts/1.json: "):
        rollouts.read(store, "demo")
    with pytest.raises(StoreError, match=r"rollouts/1.json: "):
        rollouts.abort(store, "demo", 2)


def test_without_the_file_of_its_experiment_a_rollout_reaches_nobody(store: Registry) -> None:
    """What the documents advise when files are broken."""
    start(store)
    (store.path / "demo" / "experiments" / "1.json").unlink()
    assert experiments.running(store, "demo") is None
    (store.path / "demo" / "rollouts" / "1.json").unlink()
    assert start(store).number == 1


def test_commands(store: Registry) -> None:
    place = store.path, "demo"
    started = musix("start", *place, "1.1.0", "--stages", "25,100", "--over", "2d", "--listeners", 1000)
    assert (started.stdout, started.stderr) == ("rollout demo/1: 1.1.0 for 25% of the listeners, running\n", "")
    assert rollouts.read(store, "demo").stage_ms == 2 * 86_400_000
    assert musix("hold", *place).stdout == "rollout demo/1: 1.1.0 for 25% of the listeners, held\n"
    assert musix("resume", *place).stdout == "rollout demo/1: 1.1.0 for 25% of the listeners, running\n"
    assert (
        musix("abort", *place, "--reason", "too slow").stdout
        == "rollout demo/1: 1.1.0 for 0% of the listeners, aborted\n"
    )
    status = musix("status", *place).stdout.splitlines()
    assert status[0] == "rollout demo/1: 1.1.0 for 0% of the listeners, aborted"
    assert [line.split(" ", 4)[4] for line in status[1:]] == [
        "start, 25%",
        "hold, 25%",
        "resume, 25%",
        "abort, 0%: too slow",
    ]
    assert json.loads(musix("status", *place, "--json").stdout)["state"] == "aborted"
    again = musix("abort", *place)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.endswith("expected a rollout that is running or held, found demo/1, which is aborted\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--over", "10001d", "expected at most 10,000 days, found '10001d'"),
        ("--over", "a week", "expected a duration such as 7d, 12h, 30m or 10s, found 'a week'"),
        ("--stages", "some", "expected percentages such as 20,40,60,80,100, found 'some'"),
        (
            "--stages",
            "20,50",
            "Invalid value for '--stages': expected growing percentages that end with 100, found 20,50",
        ),
        ("--stages", "40,20,100", "expected growing percentages that end with 100, found 40,20,100"),
        ("--stages", "nan,100", "expected growing percentages that end with 100, found nan,100"),
        ("--stages", "100", "expected a percentage before 100, found 100"),
        ("--stages", "0.00009,100", "expected a first percentage of at least 0.0001, found 0.00009,100"),
    ],
)
def test_start_with_wrong_options(store: Registry, option: str, value: str, message: str) -> None:
    result = musix("start", store.path, "demo", "1.1.0", "--listeners", 1000, option, value)
    assert (result.returncode, message in result.stderr) == (2, True)
