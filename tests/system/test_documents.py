"""The documents are correct: their commands and Python blocks run, and their links have targets.

A `console` block is run line by line (`$ ` starts a command); the output below a command is compared
(`documents.missing_lines`). A `python` block is run as a program. A comment `<!-- not run: REASON -->` just before a
block leaves it out; a `sh` block must have one. All blocks of a page share a folder with the demo bundle, its training
run, the recipes and the examples.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bundle_variants import variant
from tests.conftest import ROOT
from tests.system.documents import Block, Command, blocks, commands, dead_links, missing_lines
from tests.system.servers import free_port, running

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*.md"), *ROOT.glob("perf/*.md")]
PORT = "8000"  # in the documents; a free one in the test
TIMEOUT_S = 300


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, demo_bundle: Path, demo_folder: Path) -> Path:
    """A folder as the documents expect it: recipes, examples, the output of `make demo` in build/, and a second version
    of the bundle."""
    shutil.copytree(demo_bundle, tmp_path / "build" / demo_bundle.name)
    variant(demo_bundle, tmp_path / "build" / "demo-1.1.0", "1.1.0")
    shutil.copytree(demo_folder, tmp_path / "build" / "runs" / demo_folder.name)
    for name in ("bundles", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text())], ids=name_of)
def test_commands_and_snippets_of_a_page_run(page: Path, folder: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    port = str(free_port())
    with Runner(folder, port, environment) as runner:
        for block in blocks(page.read_text()):
            if not block.not_run:
                runner.run_block(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_blocks_have_a_reason_why_they_are_not_run(page: Path) -> None:
    assert [block.text for block in blocks(page.read_text()) if block.language == "sh" and not block.not_run] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_have_targets(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize(
    "command", sorted({each for page in PAGES for each in re.findall(r"`(pytest [^`]+)`", page.read_text())})
)
def test_tests_that_a_page_names_exist(command: str) -> None:
    paths, _, words = command.removeprefix("pytest ").partition(" -k ")
    files = [
        file
        for path in paths.split()
        for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py"))
    ]
    names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())]
    assert names
    for word in re.findall(r"\w+", words.replace(" or ", " ")):
        assert any(word in name for name in names), word


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("ok, 41 files, 5,273,169 bytes", "ok, 41 files, 5,273,225 bytes", True),
        ("ok, 41 files, 5,273,169 bytes", "ok, 42 files, 5,273,169 bytes", False),
        ("ok, 41 files, 5,273,169 bytes", "ok, 41 files, 5,873,169 bytes", False),
        ('"score": 0.949576,', '  "score": 0.949159,', True),
        ('"similarity": 0.904297}', '"similarity": 0.902311}', False),
        ("85.8%  metal", "85.7%  metal", True),
        ("85.8%  metal", "85.6%  metal", False),
        ("simulated0000000002815", "simulated0000000002816", False),
        ("errors: genre 1.0e-06", "errors: genre 2.0e-06", True),
        ("the stage lasts 42.0 h more", "the stage lasts 41.9 h more", True),
        ("started 2026-11-27 19:08:33Z, running", "started 2027-01-02 03:04:05Z, running", True),
        ("started 2026-11-27 19:08:33Z, running", "started 2027-01-02 03:04:05Z, ended", False),
    ],
)
def test_numbers_of_a_line_are_compared(shown: str, printed: str, same: bool) -> None:
    assert missing_lines([shown, "..."], f"other\n{printed}\n") == ([] if same else [shown])


class Runner:
    """Runs the blocks of one page in a folder. A server runs in the background until the next server or the end."""

    def __init__(self, folder: Path, port: str, environment: dict[str, str]) -> None:
        self.folder = folder
        self.port = port
        self.environment = environment
        self.server = ExitStack()

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self.server.close()

    def run_block(self, block: Block) -> None:
        """Run a `console` or `python` block; ignore blocks of other languages."""
        text = block.text.replace(PORT, self.port)
        if block.language == "python":
            self._run_program([sys.executable, "-c", text])
        elif block.language == "console":
            for command in commands(Block(block.language, text, block.not_run)):
                self._run_command(command)

    def _run_command(self, command: Command) -> None:
        if "musix serve " in command.text:
            self._serve(command)
            return
        code, printed = self._run_program(["bash", "-o", "pipefail", "-c", command.text], check=False)
        fails = any(line.startswith("error: ") for line in command.output)
        assert (code != 0) == fails, f"$ {command.text}\n{printed}"
        assert missing_lines(command.output, printed) == [], f"$ {command.text}\n{printed}"

    def _serve(self, command: Command) -> None:
        self.server.close()
        shell = ["bash", "-c", f"cd {self.folder} && {_with_exec(command.text)} --port {self.port}"]
        self.server.enter_context(running(shell, f"http://127.0.0.1:{self.port}/ready", **self.environment))

    def _run_program(self, arguments: list[str], check: bool = True) -> tuple[int, str]:
        """Return the exit code and all that was printed."""
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments[-1]}\n{done.stdout}"
        return done.returncode, done.stdout


def _with_exec(command: str) -> str:
    """Return the command so that the shell becomes the server, which then receives the signal that ends it."""
    return command.replace("musix serve", "exec musix serve", 1)
