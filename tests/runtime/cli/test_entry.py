"""How the command ends: by signals at any moment, and where its output cannot be written."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from musix_runtime.models.parts import open_bundle
from tests.system.servers import MUSIX

# Runs the command, and sends itself a signal at the first audit event of a kind whose first argument has a text.
PROGRAM = """
import os, sys
kind, text, number, *sys.argv = sys.argv[1:]
def send(event, arguments):
    global kind
    if event == kind and text in str(arguments[0]):
        kind = None
        os.kill(os.getpid(), int(number))
sys.addaudithook(send)
from musix_runtime.cli.entry import main
main()
"""


def signalled(kind: str, text: str, number: signal.Signals, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, text, str(number.value), "musix", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in the background
    )


@pytest.mark.parametrize(
    "module",
    ["musix_runtime.cli.main", "click", "msgspec", "numpy", "numpy._core.multiarray", "onnxruntime", "faiss"],
)
def test_ctrl_c_during_an_import_ends_the_command(small_bundle: Path, module: str) -> None:
    done = signalled("import", module, signal.SIGINT, "verify", small_bundle)
    assert done.returncode == 130
    assert done.stderr.strip() in ("", "stopped")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_no_half_written_file(
    small_bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup make test` ignores, with all its children
    open_bundle(small_bundle).pack(tmp_path / "packed.musix")
    done = signalled("open", ".out.partial/", number, "unpack", tmp_path / "packed.musix", tmp_path / "out")
    assert (done.returncode, done.stderr.strip()) == (code, "stopped")
    assert list(tmp_path.iterdir()) == [tmp_path / "packed.musix"]


def test_a_signal_that_is_ignored_stays_ignored(small_bundle: Path) -> None:
    ignoring = f"trap '' INT; {sys.executable} -c '{PROGRAM}' import onnxruntime 2 musix verify {small_bundle}"
    assert subprocess.run(["sh", "-c", ignoring], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "BUNDLE"], ["inspect", "BUNDLE", "--json"]])
def test_a_closed_pipe_ends_the_command_without_a_word(
    small_bundle: Path, arguments: list[str], unbuffered: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(small_bundle) if item == "BUNDLE" else item for item in arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [MUSIX, *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_does_not_fit_is_an_error(small_bundle: Path, tmp_path: Path, unbuffered: str) -> None:
    with (tmp_path / "card.json").open("w") as file:
        done = subprocess.run(
            [MUSIX, "inspect", small_bundle, "--json"],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: expected one that can be used, found: File too large")
