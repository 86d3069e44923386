import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system.servers import CLIENT, free_port, running

EXAMPLES = ROOT / "examples"
QUESTION = {"userId": "listener-001", "limit": 3}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("library.py", "collaborative"),
        ("many_threads.py", "100 of 100 answers of 8 threads"),
        ("many_processes.py", "100 of 100 answers of 2 processes"),
    ],
)
def test_an_example_that_runs_to_its_end(name: str, says: str, demo_bundle: Path) -> None:
    command = [sys.executable, EXAMPLES / name, demo_bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout


def test_an_example_whose_reader_ends_ends_quietly(demo_bundle: Path) -> None:
    command = [sys.executable, EXAMPLES / "ask_over_http.py", demo_bundle]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        assert asked.stdout
        assert asked.stderr
        asked.stdout.close()
        assert asked.stderr.read() == b""
    assert asked.returncode == 0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_shows_how_it_is_called(path: Path) -> None:
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path.name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["mount_in_starlette.py", "mount_in_fastapi.py"])
def test_an_example_that_mounts_the_application(name: str, demo_bundle: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running([sys.executable, EXAMPLES / name, demo_bundle, port], url):
        answer = CLIENT.post(f"{url}/music/api/ml/recommend", json=QUESTION)
        assert len(answer.json()["data"]["recommendations"]) == 3
        assert CLIENT.get(f"{url}/music/ready").json()["name"] == "demo"
        if "fastapi" in name:
            best = answer.json()["data"]["recommendations"][0]
            assert CLIENT.get(f"{url}/listeners/listener-001/next").json()["id"] == best["id"]
        else:
            assert CLIENT.get(url).text == "A shop with music\n"


def test_the_example_behind_wsgi(demo_bundle: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running([sys.executable, EXAMPLES / "behind_wsgi.py", demo_bundle, port], url):
        assert len(CLIENT.post(f"{url}/recommend", json=QUESTION).json()["recommendations"]) == 3
        wrong = CLIENT.post(f"{url}/recommend", json={"userId": "x", "limit": 0})
        assert (wrong.status_code, wrong.json()["error"][0]["path"]) == (422, "limit")
        assert CLIENT.post(f"{url}/similar", json={"trackId": "no such track"}).status_code == 404
        assert CLIENT.post(f"{url}/similar", content=b"{").status_code == 400
