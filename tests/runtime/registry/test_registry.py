import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import pytest

from musix_runtime import Engine, Registry
from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle import signature
from musix_runtime.bundle.archive import stamp
from musix_runtime.bundle.manifest import GOLDEN, MANIFEST, SIGNATURE
from musix_runtime.errors import (
    GoldenError,
    HashError,
    InputError,
    ManifestError,
    OutputError,
    StoreError,
    VersionError,
)
from musix_runtime.models.parts import open_bundle
from musix_runtime.registry.registry import find
from tests.bundle_variants import flip, plant, variant

MUSIX = Path(sys.executable).with_name("musix")
Make = Callable[..., Path]
KILLS = 20


@pytest.fixture
def make(small_bundle: Path, tmp_path: Path) -> Make:
    """Return a function that makes a variant of the demo with another version."""

    def made(version: str, mark: str | None = None) -> Path:
        return variant(small_bundle, tmp_path / f"bundle-{version}-{mark}", version, mark)

    return made


@pytest.fixture(scope="module")
def published_once(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a registry with 1.0.0 and the live version 1.9.0."""
    folder = tmp_path_factory.mktemp("registry")
    store = Registry(folder / "store")
    for version in ("1.0.0", "1.9.0"):
        store.publish(variant(small_bundle, folder / version, version))
    return store.path


def test_folders_that_are_no_names_are_left_out(published_once: Path, tmp_path: Path) -> None:
    shutil.copytree(published_once, tmp_path / "store")
    for name in ("Odd Name", ".hidden"):
        (tmp_path / "store" / name).mkdir()
        (tmp_path / "store" / name / "live").write_text("1.0.0\n")
    assert Registry(tmp_path / "store").names() == Registry(published_once).names()
    found = find(tmp_path / "store")
    assert found is not None


def test_a_candidate_that_is_live_is_called_so(published_once: Path, small_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(published_once, tmp_path / "store")
    bundle = variant(small_bundle, tmp_path / "1.9.0", "1.9.0")
    done = subprocess.run(
        [MUSIX, "publish", bundle, tmp_path / "store", "--candidate"], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("1.9.0: live\n")


@pytest.fixture
def store(published_once: Path, tmp_path: Path) -> Registry:
    """A registry of its own with 1.0.0 and the live version 1.9.0."""
    return Registry(shutil.copytree(published_once, tmp_path / "store", symlinks=True))


def published(store: Registry) -> list[str]:
    return sorted(item.name for item in (store.path / "demo").iterdir() if not item.name.startswith("."))


@pytest.mark.parametrize("folder", ["", "catalog"])
def test_a_registry_inside_the_bundle_is_refused_and_the_bundle_stays(make: Make, folder: str) -> None:
    bundle = make("1.0.0")
    with pytest.raises(OutputError, match="expected a place outside of the bundle"):
        Registry(bundle / folder).publish(bundle)
    Engine.open(bundle)


def test_a_registry_that_is_a_link_to_itself_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop"):
        Registry(tmp_path / "loop").publish(make("1.0.0"))


def test_published_bundle_is_live_and_complete(make: Make, tmp_path: Path) -> None:
    bundle, store = make("1.0.0"), Registry(tmp_path / "deep" / "store")
    path = store.publish(bundle)
    assert path == store.live("demo") == store.path / "demo" / "1.0.0"
    assert Engine.open(path).bundle.digest == Engine.open(bundle).bundle.digest
    assert store.names() == ["demo"]
    assert (store.path / "demo" / "live").read_text() == "1.0.0\n"


def test_versions_are_compared_as_numbers_and_lower_versions_refused(store: Registry, make: Make) -> None:
    assert store.publish(make("1.10.0")).name == "1.10.0"
    with pytest.raises(VersionError, match=r"demo: expected at least the live version 1.10.0, found 1.9.1"):
        store.publish(make("1.9.1"))
    assert published(store) == ["1.0.0", "1.10.0", "1.9.0", "live"]
    assert store.live("demo").name == "1.10.0"


def test_publishing_a_live_bundle_changes_nothing(store: Registry, make: Make) -> None:
    before = stamp(store.live("demo"))
    assert store.publish(store.live("demo")) == store.live("demo")
    assert stamp(store.live("demo")) == before
    assert store.history("demo") == ["1.9.0", "1.0.0"]


def test_published_version_with_other_content_is_refused(store: Registry, make: Make) -> None:
    with pytest.raises(
        VersionError, match=r"1.9.0: expected the published content, digest [0-9a-f]{64}, found [0-9a-f]"
    ):
        store.publish(make("1.9.0", "X"))


def test_published_version_with_another_signature_is_refused(make: Make, tmp_path: Path) -> None:
    private, public = signature.generate(tmp_path / "ours")
    bundle = make("1.9.0", "A")
    digest = open_bundle(bundle).digest
    store = Registry(tmp_path / "unsigned")
    store.publish(bundle)
    (bundle / SIGNATURE).write_bytes(signature.sign(digest, private))
    for opener in (Engine.open, partial(Engine.open, trust=public)):
        with pytest.raises(VersionError, match=r"expected the signature of .*sign a bundle before its first publish"):
            Registry(store.path, opener).publish(bundle)
    assert store.open("demo", "1.9.0").bundle.digest == digest


def test_gc_without_the_live_version_removes_nothing(store: Registry) -> None:
    (store.path / "demo" / "live").write_text("9.9.9\n1.9.0\n")
    with pytest.raises(StoreError, match=r"demo/live: expected a published version, found 9\.9\.9, which is missing"):
        store.gc("demo")
    assert published(store) == ["1.0.0", "1.9.0", "live"]


def test_broken_bundle_is_not_published(store: Registry, make: Make) -> None:
    bundle = make("2.0.0")
    flip(bundle / "mood" / "model.onnx")
    with pytest.raises(HashError):
        store.publish(bundle)
    assert published(store) == ["1.0.0", "1.9.0", "live"]


def test_name_with_a_path_is_refused(store: Registry, make: Make) -> None:
    bundle = make("2.0.0")
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"name": "demo"', b'"name": "../../demo"'))
    with pytest.raises(ManifestError):
        store.publish(bundle)


def test_rollback_and_publish_again(store: Registry, make: Make) -> None:
    assert store.rollback("demo") == store.live("demo") == store.path / "demo" / "1.0.0"
    with pytest.raises(StoreError, match=r"demo: expected a version that was live before 1.0.0, found none"):
        store.rollback("demo")
    store.publish(make("1.5.0"))  # lower than what was rolled back, higher than what is live
    store.publish(store.path / "demo" / "1.9.0")
    assert store.history("demo") == ["1.9.0", "1.5.0", "1.0.0"]


def test_rollback_to_a_broken_bundle_is_refused(store: Registry) -> None:
    flip(store.path / "demo" / "1.0.0" / "mood" / "model.onnx")
    with pytest.raises(HashError):
        store.rollback("demo")
    assert store.live("demo").name == "1.9.0"


def test_gc_keeps_the_live_and_earlier_versions(store: Registry, make: Make) -> None:
    store.publish(make("1.10.0"))
    store.publish(make("2.0.0"))
    store.rollback("demo")
    assert [item.name for item in store.gc("demo")] == ["1.0.0", "2.0.0"]
    assert published(store) == ["1.10.0", "1.9.0", "live"]
    assert store.history("demo") == ["1.10.0", "1.9.0"]
    assert store.gc("demo") == []
    assert [item.name for item in store.gc("demo", keep=0)] == ["1.9.0"]
    assert Engine.open(store.live("demo")).bundle.manifest.version == "1.10.0"


def test_gc_makes_room_on_a_full_disk(store: Registry, make: Make) -> None:
    store.publish(make("1.10.0"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))  # no file may get a byte
    try:
        with pytest.raises(OutputError, match="demo/live: expected a place to write to"):
            store.gc("demo", keep=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert published(store) == ["1.10.0", "live"]
    assert store.gc("demo", keep=0) == []
    assert store.history("demo") == ["1.10.0"]


def test_open_engine_survives_gc(store: Registry) -> None:
    engine = Engine.open(store.path / "demo" / "1.0.0")
    store.gc("demo", keep=0)
    assert not (store.path / "demo" / "1.0.0").exists()
    assert engine.catalog.names[0]


def test_find_registry_by_path(store: Registry, small_bundle: Path) -> None:
    assert find(store.path) == find(store.path / "demo") == (store, "demo")
    assert find(small_bundle) is None
    assert find(store.path / "nothing") is None
    other = store.path / "other"
    other.mkdir()
    (other / "live").write_text("1.0.0\n")
    with pytest.raises(
        StoreError, match="expected REGISTRY/NAME, or a registry with one name, found the names demo, other"
    ):
        find(store.path)
    assert find(other) == (store, "other")


@pytest.mark.parametrize("content", ["", "..\n", "1.0.0\n../../etc\n", "1.0\n"])
def test_invalid_pointer_is_refused(store: Registry, content: str) -> None:
    (store.path / "demo" / "live").write_text(content)
    with pytest.raises(StoreError, match=r"demo/live: expected one version per line, found "):
        store.live("demo")


def test_bundle_in_the_folder_of_another_version_is_refused(store: Registry) -> None:
    (store.path / "demo" / "1.9.0").rename(store.path / "demo" / "1.9.1")
    with pytest.raises(ManifestError, match=r"1.9.1: expected demo 1.9.1, found demo 1.9.0"):
        store.open("demo", "1.9.1")


def test_an_unknown_name_is_answered_with_the_known_ones(store: Registry) -> None:
    with pytest.raises(StoreError, match=r"store: expected one of the names demo, found 'nope'$"):
        store.rollback("nope")


def test_the_command_versions_lists_names_versions_and_the_live_one(
    store: Registry, make: Make, small_bundle: Path
) -> None:
    store.publish(make("1.10.0"))
    store.rollback("demo")
    store.publish(small_bundle)
    assert store.versions("demo") == ["1.0.0", "1.9.0", "1.10.0"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [MUSIX, "versions", store.path, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    demo = "demo 1.0.0 rollback\ndemo 1.9.0 live\ndemo 1.10.0\n"
    assert run("demo").stdout == demo
    assert run().stdout == demo + "small 1.0.0 live\n"
    assert json.loads(run("demo", "--json").stdout) == {
        "demo": {"versions": ["1.0.0", "1.9.0", "1.10.0"], "live": "1.9.0", "earlier": ["1.0.0"]}
    }
    unknown = run("nope")
    assert unknown.returncode == 2
    assert unknown.stderr == f"error: {store.path}: expected one of the names demo, small, found 'nope'\n"


def test_versions_of_a_folder_that_is_no_registry(tmp_path: Path) -> None:
    done = subprocess.run([MUSIX, "versions", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: expected a registry, found no published bundle; check the path")


def test_registry_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/demo: expected a folder to write into, found"):
        Registry(tmp_path / "file").publish(make("1.0.0"))
    with pytest.raises(StoreError, match="expected a registry with the name 'nope', found no published bundle; check"):
        Registry(tmp_path / "nothing").gc("nope")
    assert not (tmp_path / "nothing").exists()


def test_a_published_bundle_is_read_only_and_gc_removes_it(store: Registry, make: Make) -> None:
    open_bundle(make("1.10.0")).pack(store.path / "demo.musix")
    store.publish(store.path / "demo.musix")
    store.publish(make("1.11.0"))
    paths = [store.path / "demo" / item for item in store.history("demo")]
    assert {item.stat().st_mode & 0o777 for path in paths for item in path.rglob("*") if item.is_file()} == {0o444}
    assert {item.stat().st_mode & 0o777 for path in paths for item in (path, *path.rglob("*")) if item.is_dir()} == {
        0o555
    }
    assert paths[1].stat().st_mode & 0o777 == 0o444
    for item in (store.path, *store.path.rglob("*")):
        os.chown(item, 65534, 65534)
    for item in store.path.parents:
        if item.stat().st_uid == os.getuid() and not item.stat().st_mode & 0o001:
            item.chmod(item.stat().st_mode | 0o011)
    process = multiprocessing.get_context("fork").Process(target=collect_as_nobody, args=(store,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert published(store) == ["1.11.0", "live"]


def collect_as_nobody(store: Registry) -> None:
    """Collect as a user without root's rights, for whom read-only files matter."""
    if os.getuid() == 0:
        os.setuid(65534)
    store.gc("demo", keep=0)


@pytest.mark.parametrize("name", ["../demo", "..", ".", "", "demo/1.0.0", "Demo", "/etc"])
def test_invalid_name_is_refused(store: Registry, name: str) -> None:
    for act in (store.gc, store.rollback, store.history, store.live):
        with pytest.raises(StoreError, match=f"expected a name of a-z, 0-9, _ and -, found {name!r}"):
            act(name)


def test_a_pipe_or_link_in_place_of_the_pointer_is_refused(store: Registry, tmp_path: Path) -> None:
    pointer = store.path / "demo" / "live"
    pointer.rename(tmp_path / "live")
    os.mkfifo(pointer)
    for act in (lambda: find(store.path / "demo") and store.live("demo"), lambda: store.gc("demo")):
        with pytest.raises(StoreError, match="demo/live: expected a plain file, found a folder, pipe or device"):
            act()
    pointer.unlink()
    pointer.symlink_to(tmp_path / "live")
    with pytest.raises(StoreError, match="demo/live: expected a plain file or folder, found a link"):
        store.live("demo")


def test_unfinished_files_of_a_killed_writer_are_removed(store: Registry) -> None:
    places = (".live.partial", ".live.lock", "rollouts/.1.json.partial", "experiments/.1.json.lock")
    left = [store.path / "demo" / place for place in places]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    with store.writing("demo"):
        assert [file for file in left if file.exists()] == []


def test_a_lock_that_is_a_link_is_not_followed(store: Registry, make: Make, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (store.path / "demo" / ".lock").unlink()
    (store.path / "demo" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="demo: expected a place to write to, found: Too many levels of symbolic"):
        store.publish(make("2.0.0"))
    assert (tmp_path / "victim").read_text() == "mine"


def test_all_golden_cases_are_replayed_before_a_bundle_is_live(
    store: Registry, small_bundle: Path, tmp_path: Path
) -> None:
    bundle = variant(small_bundle, tmp_path / "wrong", "2.0.0")
    file = bundle / GOLDEN
    cases = json.loads(file.read_bytes())
    cases["recommend"][-1]["expected"]["recommendations"][0]["score"] = 0.0
    file.write_text(json.dumps(cases))
    manifest = manifests.decode((bundle / MANIFEST).read_bytes(), "")
    entry = manifests.File(file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
    changed = msgspec.structs.replace(manifest, files=manifest.files | {GOLDEN: entry})
    (bundle / MANIFEST).write_bytes(manifests.encode(changed))
    Engine.open(bundle)  # which asks a few
    with pytest.raises(GoldenError, match="recommend case 63"):
        store.publish(bundle)
    assert published(store) == ["1.0.0", "1.9.0", "live"]


def test_concurrent_publishers_wait_for_each_other(store: Registry, make: Make) -> None:
    bundles = [make(f"2.{i}.0") for i in range(4)]
    started = [subprocess.Popen([MUSIX, "publish", item, store.path], stderr=subprocess.PIPE) for item in bundles]
    for process in started:
        errors = process.communicate()[1].decode()
        assert process.returncode == 0 or "expected at least the live version " in errors
    assert store.live("demo").name == "2.3.0"
    for version in store.history("demo"):
        store.open("demo", version)
    assert not list((store.path / "demo").glob(".*.partial"))


def test_registry_is_valid_after_a_publisher_was_killed_at_any_point(store: Registry, make: Make) -> None:
    """Kill publishers at times that are spread evenly over the time that one takes."""
    ended = dict.fromkeys(("before", "while copying", "before it was live", "after"), 0)
    whole = publish_and_kill(store, make("2.0.0"), None)
    for i in range(1, KILLS + 1):
        before, version = store.live("demo").name, f"2.{i}.0"
        publish_and_kill(store, make(version), 1.2 * whole * i / KILLS)
        live = store.live("demo")
        store.open("demo", live.name)
        assert live.name in (before, version)
        ended[how_it_ended(store, version)] += 1
    print(f"\nkilled {KILLS} times: {ended}")
    store.publish(make("3.0.0"))
    store.gc("demo")
    assert len(published(store)) == 3
    assert not list((store.path / "demo").glob(".*.partial"))


def publish_and_kill(store: Registry, bundle: Path, seconds: float | None) -> float:
    """Publish in a separate process, which is killed after `seconds`. Return its run time."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["musix_runtime.registry.registry"]
    )  # so that it dies at work, and not while it imports
    begun = processes.Event()
    process = processes.Process(target=publish, args=(begun, store, bundle))
    process.start()
    assert begun.wait(60)
    start = time.monotonic()
    process.join(seconds)
    process.kill()
    process.join()
    return time.monotonic() - start


@pytest.mark.parametrize(("rename", "ended"), [(1, "while copying"), (2, "before it was live")])
def test_publish_again_after_a_publisher_was_killed_before_a_rename(
    store: Registry, make: Make, rename: int, ended: str
) -> None:
    bundle = make("2.0.0")
    process = multiprocessing.get_context("forkserver").Process(target=publish_until, args=(rename, store, bundle))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert how_it_ended(store, "2.0.0") == ended
    assert store.live("demo").name == "1.9.0"
    assert store.publish(bundle) == store.live("demo") == store.path / "demo" / "2.0.0"
    assert published(store) == ["1.0.0", "1.9.0", "2.0.0", "live"]


def publish_until(rename: int, store: Registry, bundle: Path) -> None:
    """Publish, and kill this process immediately before the `rename`-th rename."""
    left = itertools.count(1 - rename)

    def die(event: str, arguments: object) -> None:
        if event == "os.rename" and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die)
    store.publish(bundle)


def publish(begun: Event, store: Registry, bundle: Path) -> None:
    begun.set()
    store.publish(bundle)


def how_it_ended(store: Registry, version: str) -> str:
    if store.live("demo").name == version:
        return "after"
    if (store.path / "demo" / version).exists():
        return "before it was live"
    return "while copying" if (store.path / "demo" / f".{version}.partial").exists() else "before"


def test_registry_commands_print_their_results(make: Make, tmp_path: Path) -> None:
    def musix(*arguments: object, code: int = 0) -> str:
        result = subprocess.run([MUSIX, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert result.returncode == code
        return (result.stdout or result.stderr).replace(str(tmp_path), "")

    store = tmp_path / "store"
    assert musix("publish", make("1.0.0"), store) == "/store/demo/1.0.0: live\n"
    assert musix("publish", make("1.1.0"), store) == "/store/demo/1.1.0: live\n"
    musix("keygen", tmp_path / "ours")
    signed = musix("sign", store / "demo" / "1.1.0", "--key", tmp_path / "ours.key", code=2)
    assert signed == (
        "error: /store/demo/1.1.0: expected a bundle to sign, found a published version, which is never changed\n"
    )
    shadow = musix("shadow", "start", store, "demo", "popular", code=2)
    assert shadow == "error: /store/demo: expected a version such as 1.2.0, found 'popular'\n"
    lower = musix("publish", make("1.0.1"), store, code=2)
    assert lower.startswith("error: /store/demo: expected at least the live version 1.1.0, found 1.0.1")
    assert musix("rollback", store, "demo") == "/store/demo/1.0.0: live\n"
    assert musix("gc", store, "demo") == "/store/demo/1.1.0: removed\n"
    plant(make("2.0.0"), store, "demo", broken="mood/model.onnx")
    assert "expected SHA-256" in musix("publish", store / "demo" / "2.0.0", tmp_path / "other", code=4)


def test_registry_errors_are_input_errors() -> None:
    assert issubclass(VersionError, StoreError)
    assert issubclass(StoreError, InputError)
