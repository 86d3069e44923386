"""`musix serve` where its output is not read, its terminal is closed, or an earlier server was killed."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.servers import CLIENT, MUSIX, free_port, serving, worker_pid
from tests.system.test_workers import until, workers


@contextmanager
def serving_in_shell(command: str, bundle: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a shell command in which MUSIX stands for `musix serve BUNDLE` on a free port; yield its URL and process."""
    port = free_port()
    command = command.replace("MUSIX", f"{MUSIX} serve {bundle} --port {port} --access-log")
    with subprocess.Popen(["bash", "-c", f"exec {command}"], stderr=subprocess.DEVNULL, text=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: CLIENT.get(f"{url}/ready").status_code == 200)
            yield url, process
        finally:
            process.terminate()
            process.wait(30)


def test_a_closed_standard_output_is_logged_once_and_the_server_goes_on(small_bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving_in_shell(f"MUSIX > >(head -1) 2> {log}", small_bundle) as (url, process):
        for _ in range(5):
            assert CLIENT.get(f"{url}/ready").status_code == 200
    assert process.returncode == 0
    text = log.read_text()
    assert text.count("access log: expected standard output to take a line, found: Broken pipe") == 1
    assert "Traceback" not in text
    assert "BrokenPipe" not in text


@pytest.mark.parametrize(
    "command", ["MUSIX > >(true) 2>&1", "MUSIX >&-", "MUSIX >&- 2>&-", "MUSIX > /dev/full 2> /dev/full"]
)
def test_a_server_without_output_replaces_its_worker(small_bundle: Path, command: str) -> None:
    with serving_in_shell(command, small_bundle) as (url, process):
        until(lambda: len(workers(process)) == 1)  # the shell's `true` was not replaced
        (worker,) = workers(process)
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(workers(process) - {worker}) == 1)
        assert until(lambda: CLIENT.get(f"{url}/ready").status_code == 200)
        assert len(workers(process)) == 1
    assert process.returncode == 0


def test_snapshots_are_removed_also_after_a_hangup(small_bundle: Path, tmp_path: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup make test` ignores, with all its children
    with serving(small_bundle, "--snapshot", "--workers", 2, TMPDIR=str(tmp_path)) as (_, process):
        assert len(list(tmp_path.glob("musix-*"))) == 2
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_hangup_that_is_ignored_stays_ignored(small_bundle: Path) -> None:
    with serving_in_shell("nohup MUSIX", small_bundle) as (url, process):
        process.send_signal(signal.SIGHUP)
        assert CLIENT.get(f"{url}/ready").status_code == 200
        assert process.poll() is None


def test_snapshots_of_killed_servers_are_removed_by_the_next_one(small_bundle: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("musix-snapshot-other", "musix-snapshot-file", "another")]
    (others[0] / "files").mkdir(parents=True)
    others[1].write_text("")
    others[2].mkdir()
    with (
        serving(small_bundle, "--snapshot", TMPDIR=str(tmp_path)) as (url, _),
        serving(small_bundle, "--snapshot", TMPDIR=str(tmp_path)) as (_, killed),
    ):
        worker = worker_pid(killed)
        assert len(list(tmp_path.iterdir())) == 5
        killed.kill()
        until(lambda: not Path(f"/proc/{worker}").exists())
        with serving(small_bundle, "--snapshot", TMPDIR=str(tmp_path)):
            assert len(list(tmp_path.iterdir())) == 5
        assert CLIENT.get(f"{url}/ready").status_code == 200
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("place", ["missing", "file", "/proc", ""])
def test_a_wrong_folder_of_shared_metrics_prints_one_sentence(small_bundle: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [MUSIX, "serve", small_bundle, "--port", "0"],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": place},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: PROMETHEUS_MULTIPROC_DIR: expected a folder that can be written, found")


def test_an_access_log_on_a_full_disk_is_reported_once(small_bundle: Path, tmp_path: Path) -> None:
    with serving_in_shell(f"MUSIX > /dev/full 2> {tmp_path / 'log'}", small_bundle) as (url, _):
        for _ in range(3):
            assert json.loads(CLIENT.get(f"{url}/ready").text)["status"] == "ready"
    assert (tmp_path / "log").read_text().count("No space left on device") == 1
