"""`musix loop` with a real training: from feedback to the rollout of the next version."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musix_exporter.cli import _exit_code, loop
from musix_runtime import Registry
from musix_runtime.bundle import signature
from musix_runtime.clock import now_ms
from musix_runtime.errors import OutputError, RecipeError
from musix_runtime.feedback.events import DAY_MS
from musix_runtime.feedback.store import FeedbackStore
from musix_runtime.models.parts import open_bundle
from musix_runtime.registry import experiments
from musix_runtime.serving.model_manager import ModelManager
from musix_trainer.data import synthetic
from musix_trainer.loop import journal
from musix_trainer.loop import loop as trainer_loop
from musix_trainer.loop.policy import Decision
from musix_trainer.recipe import Synthetic
from perf.simulated_service import SimulatedService
from tests.bundle_variants import variant
from tests.recipes import SMALL

FEEDBACK = '"tables"\n[tables]\nfeedback = "feedback.parquet"\n'


@pytest.fixture
def place(tmp_path: Path, small_bundle: Path) -> Path:
    """A folder with a registry, the tables of a recipe, and a feedback store of 10 days."""
    world = synthetic.generate(Synthetic(tracks=800, listeners=100), 0)
    (tmp_path / "data").mkdir()
    for name in ("tracks", "listening", "feedback"):
        getattr(world, name).write_parquet(tmp_path / "data" / f"{name}.parquet")
    (tmp_path / "demo.toml").write_text(SMALL.replace('"small"', '"demo"').replace('"synthetic"\n', FEEDBACK))
    Registry(tmp_path / "registry").publish(variant(small_bundle, tmp_path / "demo-1.0.0", "1.0.0"))
    store = FeedbackStore.open(f"sqlite:///{tmp_path / 'feedback.db'}")
    service = SimulatedService(
        ModelManager.open(tmp_path / "registry"),
        store,
        [synthetic.user_id(number) for number in range(100)],
        lambda version, listener, tracks, day: 0.2,
        start_ms=now_ms() - 10 * DAY_MS,
    )
    for day in range(10):
        service.live_through(day)
    store.close()
    return tmp_path


def run(place: Path, *options: str) -> Result:
    paths = {"--recipe": "demo.toml", "--data": "data", "--out": "out"}
    arguments = [each for name, path in paths.items() for each in (name, str(place / path))]
    arguments += ["--feedback", f"sqlite:///{place / 'feedback.db'}", *options]
    return CliRunner().invoke(loop, [str(place / "registry"), "demo", *arguments])


def test_the_next_version_is_trained_and_rolled_out(place: Path) -> None:
    assert (run(place).exit_code, run(place, "--dry-run").exit_code) == (5, 0)
    private, public = signature.generate(place / "owner")
    result = run(place, "--now", "--json", "--key", str(private))
    assert result.exit_code == 0, result.output
    (done,) = json.loads(result.stdout)
    assert (done["decision"]["trigger"], done["outcome"], done["version"]) == ("request", "done", "1.1.0")
    registry = Registry(place / "registry")
    assert registry.history("demo") == ["1.0.0"]
    running = experiments.running(registry, "demo")
    assert running is not None
    assert (running.treatment, running.share) == ("1.1.0", 0.2)
    bundle = open_bundle(place / "registry" / "demo" / "1.1.0", public)
    before = open_bundle(place / "registry" / "demo" / "1.0.0")
    for table in ("listening", "feedback"):
        assert bundle.manifest.provenance.sources[table].rows > before.manifest.provenance.sources[table].rows
    assert run(place, "--now").exit_code == 5


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "demo"', 'name = "other"', "name: expected 'demo', found 'other'"),
        ('"tables"', '"synthetic"', 'source: expected "tables"'),
    ],
)
def test_recipes_that_cannot_be_retrained(place: Path, before: str, after: str, message: str) -> None:
    file = place / "demo.toml"
    file.write_text(file.read_text().replace(before, after))
    result = run(place, "--now")
    assert message in str(result.exception)
    assert isinstance(result.exception, RecipeError) or after == '"synthetic"'


def test_what_would_fail_after_the_training_is_found_before(place: Path) -> None:
    _, public = signature.generate(place / "owner")
    assert "--trust: expected --key as well" in str(run(place, "--now", "--trust", str(public)).exception)
    missing = run(place, "--now", "--key", str(place / "no.key"))
    assert "no.key: expected an Ed25519 private key" in str(missing.exception)
    assert not (place / "out").exists()


@pytest.mark.parametrize("taken", ["demo-1.1.0", "runs/demo-1.1.0"])
def test_a_bundle_or_run_that_the_loop_did_not_make_is_kept(place: Path, taken: str) -> None:
    theirs = place / "out" / taken / "theirs"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    result = run(place, "--now")
    assert isinstance(result.exception, OutputError)
    assert str(result.exception).startswith(f"{theirs.parent}: expected a free name, found an existing file or folder")
    assert list(theirs.parent.iterdir()) == [theirs]
    assert journal.read_all(Registry(place / "registry"), "demo") == []  # nothing began


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["nothing"], 5),
        (["done"], 0),
        (["refused"], 3),
        (["refused", "done"], 0),  # the version before is broken, and the next one was trained
        (["done", "refused"], 3),
        (["done", "nothing"], 0),
        (["refused", "nothing"], 3),
    ],
)
def test_the_exit_code_is_that_of_the_last_action(outcomes: list[journal.Outcome], code: int) -> None:
    results = [trainer_loop.Result(Decision("wait", None, ""), None, outcome) for outcome in outcomes]
    assert _exit_code(results) == code


def test_a_dry_run_writes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    looked = run(place, "--dry-run", "--now")
    assert (looked.exit_code, looked.output) == (0, "retrain: on request\n")
    assert sorted(place.rglob("*")) == before


def test_a_rollback_is_printed_when_the_training_after_it_fails(place: Path) -> None:
    """The feedback has listeners who skip most of what the second version proposes."""
    registry = Registry(place / "registry")
    registry.publish(variant(place / "registry" / "demo" / "1.0.0", place / "demo-1.1.0", "1.1.0"))
    store = FeedbackStore.open(f"sqlite:///{place / 'feedback.db'}")
    listeners = [synthetic.user_id(number) for number in range(100)]
    manager, start_ms = ModelManager.open(registry.path), now_ms() - DAY_MS
    SimulatedService(manager, store, listeners, lambda *_: 0.9, active=1, start_ms=start_ms).live_through(0)
    store.close()
    (place / "data" / "listening.parquet").write_bytes(b"no table")
    done = run(place, "--json")
    (result,) = json.loads(done.stdout)
    assert (result["decision"]["action"], result["found"]) == ("roll back", "1.0.0 is live")
    assert "listening.parquet: expected a readable table" in str(done.exception)
    assert registry.live("demo").name == "1.0.0"


def test_one_loop_at_a_time_works_with_a_registry(place: Path) -> None:
    """With whatever --out; another one has nothing to do."""
    with journal.sole_loop(Registry(place / "registry"), "demo", wait=False):
        result, as_json = run(place), run(place, "--json")
    assert result.exit_code == 5
    assert "demo/.loop: expected no other writer, found one" in result.output
    assert as_json.exit_code == 5
    (waits,) = json.loads(as_json.stdout)
    assert (waits["decision"]["action"], waits["outcome"]) == ("wait", "nothing")
    reason = waits["decision"]["reason"]
    assert waits == {
        "decision": {"action": "wait", "trigger": None, "reason": reason},
        "state": None,
        "outcome": "nothing",
        "found": "",
        "version": None,
    }
    assert result.output == f"wait: {reason}\n"
    assert run(place, "--dry-run").exit_code == 0


def test_a_registry_that_cannot_be_written_is_wrong_input(place: Path) -> None:
    """Seen by a user without root's rights."""
    (place / "out").mkdir()
    for path in (place, place / "out", *place.glob("feedback.db*")):
        path.chmod(0o777)
    for path in place.parents:
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    for path in (place / "registry" / "demo", place / "registry"):
        path.chmod(0o555)
    process = multiprocessing.get_context("fork").Process(target=_refused_as_nobody, args=(place,))
    process.start()
    process.join()
    assert process.exitcode == 0


def _refused_as_nobody(place: Path) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    result = run(place)
    assert isinstance(result.exception, OutputError), result.output
    assert "expected a folder to write into, found one that is read-only" in str(result.exception)
