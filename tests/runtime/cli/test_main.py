import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from musix_runtime.cli.main import musix as cli
from tests.runtime.test_schemas import FEATURES
from tests.variants import NAMES, variant

MUSIX = Path(sys.executable).with_name("musix")


def musix(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MUSIX, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_verify_and_inspect(demo_bundle: Path) -> None:
    verified = musix("verify", demo_bundle)
    assert verified.returncode == 0
    assert ": ok, 34 files" in verified.stdout
    card = json.loads(musix("inspect", demo_bundle, "--json").stdout)
    assert card["digest"] in verified.stdout
    assert card["manifest"]["provenance"]["sources"]["listening"]["simulated"] is True
    told = musix("inspect", demo_bundle).stdout
    assert "tracks (simulated), 3,360 rows" in told
    assert not re.search(r"\.\d{8}", told)  # four digits tell enough


def test_answers_on_the_terminal(demo_bundle: Path) -> None:
    by_id = musix("classify", demo_bundle, "simulated0000000000001", "--json")
    assert len(json.loads(by_id.stdout)["genres"]) == 5
    by_features = musix(
        "classify", demo_bundle, "--features", json.dumps(FEATURES), "--artist", "Nobody", "--popularity", 50
    )
    assert "mood: " in by_features.stdout
    recommended = musix("recommend", demo_bundle, "listener-001", "--limit", 3, "--hour", 8, "--json")
    assert len(json.loads(recommended.stdout)["recommendations"]) == 3
    assert "source: content" in musix("recommend", demo_bundle, "x", "--current", "simulated0000000000001").stdout
    assert len(musix("similar", demo_bundle, "simulated0000000000001", "--limit", 3).stdout.splitlines()) == 3


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_a_console_that_is_not_utf8_shows_what_it_can(demo_bundle: Path, tmp_path: Path, encoding: str) -> None:
    names = variant(demo_bundle, tmp_path / "named", "1.0.1", "A") / NAMES
    letters = np.load(names)
    starts = np.load(names.with_name("name_offsets.npy"))[:-1]
    for i, byte in enumerate("\u97f3".encode()):  # a title that begins with a Japanese letter
        letters[starts + i] = byte
    np.save(names, letters)
    bundle = variant(tmp_path / "named", tmp_path / "japanese", "1.0.2")
    for command in (["similar", bundle, "simulated0000000000001"], ["recommend", bundle, "listener-001", "--json"]):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([MUSIX, *command], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"ulated Song" in done.stdout


def test_a_taken_port_is_said_to_be_taken(demo_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = musix("serve", demo_bundle, "--port", port)
    assert found.returncode == 2
    assert f"error: 127.0.0.1:{port}: expected a free port to listen on, found: " in found.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["similar", "BUNDLE", "unknown"], 2, "error: trackId: expected a track of the catalogue, found 'unknown'"),
        (["recommend", "BUNDLE", "a", "--limit", "0"], 2, "error: limit: expected int >= 1, found 0"),
        (["classify", "BUNDLE"], 2, "error: trackId: is required when audioFeatures is not given"),
        (["classify", "BUNDLE", "--features", "{"], 2, "error: --features: expected a JSON object or @FILE, found:"),
        (
            ["classify", "BUNDLE", "--features", "[" * 5000],
            2,
            "error: --features: expected a JSON object or @FILE, found:",
        ),
        (["classify", "BUNDLE", "--features", "9" * 5000], 2, "found: Integer value out of range"),
        (["gc", "BUNDLE", "../demo"], 2, "expected a bundle's name, of a-z, 0-9, _ and -, found '../demo'"),
        (
            ["serve", "BUNDLE", "--snapshot", "--trust", "none.pub"],
            2,
            "error: none.pub: expected an Ed25519 public key",
        ),
        (["verify", "nothing-here"], 4, "error: nothing-here: expected a bundle folder or file, found nothing"),
        (["unheard-of"], 2, "No such command"),
    ],
)
def test_wrong_input_is_one_sentence_and_an_exit_code(
    demo_bundle: Path, arguments: list[str], code: int, message: str
) -> None:
    found = musix(*[str(demo_bundle) if each == "BUNDLE" else each for each in arguments])
    assert found.returncode == code
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_every_command_has_a_help_text_that_is_not_cut_off() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command, name
        assert command.help, name
    shown = musix("--help").stdout
    assert "..." not in shown.partition("Commands:")[2]
