"""A real server whose bundle is overwritten by `cp`."""

import json
import shutil
import signal
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import pytest

from musix_runtime import Registry
from musix_runtime.models.parts import open_bundle
from tests.bundle_variants import variant
from tests.system.test_swap import MUSIX, Server, serve, until

QUESTION = json.dumps({"userId": "listener-001", "limit": 3})


def ask(server: Server, path: str = "/api/ml/recommend") -> tuple[int, dict]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        body = QUESTION if path.startswith("/api") else None
        connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def tracks(answer: dict) -> list[str]:
    return [item["name"] for item in answer["data"]["recommendations"]]


def copy_over(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", f"{source}/." if source.is_dir() else source, target], check=True)


@pytest.mark.parametrize("form", ["folder", "packed", "store"])
def test_copy_over_a_served_bundle(demo_bundle: Path, tmp_path: Path, form: str) -> None:
    """First with other bytes of the same size, then with another valid bundle of the same size."""
    bundles = {mark: variant(demo_bundle, tmp_path / mark, "1.0.0", mark) for mark in "AB"}
    path = served = Path(shutil.copytree(bundles["A"], tmp_path / "served"))
    if form == "packed":
        for mark, folder in bundles.items():
            open_bundle(folder).pack(tmp_path / f"{mark}.musix")
            bundles[mark] = tmp_path / f"{mark}.musix"
        path = served = Path(shutil.copyfile(bundles["A"], tmp_path / "served.musix"))
    if form == "store":
        store = Registry(tmp_path / "store")
        path, served = store.path, store.publish(bundles["A"])
    files = [item for item in (served, *served.rglob("*")) if item.is_file()]
    with serve(path, tmp_path) as server:
        status, good = ask(server)
        assert (status, {name[0] for name in tracks(good)}) == (200, {"A"})
        for file in files:
            file.chmod(0o644)  # in a registry they are read-only
            with file.open("r+b") as stream:
                stream.write(b"\xff" * file.stat().st_size)
        until(lambda: ask(server, "/ready")[0] == 503, "it is not ready")
        status, answer = ask(server)
        assert (status, answer["success"], answer["error"]["code"]) == (503, False, "not_ready")
        assert str(tmp_path) not in ask(server, "/ready")[1]["error"]["message"]
        copy_over(bundles["B"], served)
        until(lambda: ask(server, "/ready")[0] == 200, "it is ready again")
        status, other = ask(server)
        assert (status, {name[0] for name in tracks(other)}) == (200, {"B"})
        assert server.process.poll() is None
    assert f"{served}: the files of the bundle: expected no changes" in server.log.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_snapshot_serves_on_and_is_removed(
    demo_bundle: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with serve(copy, tmp_path, "--snapshot", "--workers", workers) as server:
        status, good = ask(server)
        for file in [item for item in copy.rglob("*") if item.is_file()]:
            file.write_bytes(b"")
        assert ask(server)[0] == status == 200
        assert tracks(ask(server)[1]) == tracks(good)
        (private,) = (tmp_path / "tmp").glob("musix-snapshot-*")
        assert open_bundle(next((private / "files").iterdir())).digest == open_bundle(demo_bundle).digest
    assert list((tmp_path / "tmp").iterdir()) == []


def test_start_with_a_truncated_file(demo_bundle: Path, copy: Path, tmp_path: Path) -> None:
    """As after a restart because of a truncated file."""
    store = Registry(tmp_path / "store")
    store.publish(demo_bundle)
    live = store.publish(variant(demo_bundle, tmp_path / "new", "1.1.0"))
    for bundle in (copy, live):
        file = bundle / "content" / "vectors.npy"
        file.chmod(0o644)
        with file.open("r+b") as stream:
            stream.truncate(1000)
    result = subprocess.run([MUSIX, "serve", copy, "--port", "0"], capture_output=True, text=True, check=False)
    assert result.returncode == 4
    assert "content/vectors.npy: expected" in result.stderr
    with serve(store.path, tmp_path) as server:
        ready = server.ready()
        assert (ready["version"], ready["failed"]["version"]) == ("1.0.0", "1.1.0")
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
