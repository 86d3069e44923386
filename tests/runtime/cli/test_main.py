import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from musix_runtime.bundle import manifest as manifests
from musix_runtime.bundle import signature
from musix_runtime.bundle.manifest import MANIFEST
from musix_runtime.cli import queries
from musix_runtime.cli.main import musix as cli
from musix_runtime.errors import BundleError, InputError, OutputError, RequestError
from musix_runtime.models.parts import open_bundle
from musix_runtime.parsing import parse
from musix_runtime.registry.registry import Registry
from musix_runtime.schemas import TIME_RANGES, RecommendRequest
from tests.bundle_variants import NAMES, variant
from tests.features import FEATURES

MUSIX = Path(sys.executable).with_name("musix")


def musix(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MUSIX, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_verify_and_inspect(demo_bundle: Path) -> None:
    verified = musix("verify", demo_bundle)
    assert verified.returncode == 0
    assert ": ok, 41 files" in verified.stdout
    card = json.loads(musix("inspect", demo_bundle, "--json").stdout)
    assert card["digest"] in verified.stdout
    assert card["manifest"]["provenance"]["sources"]["listening"]["simulated"] is True
    printed = musix("inspect", demo_bundle).stdout
    assert "tracks (simulated), 3,360 rows" in printed
    assert not re.search(r"\.\d{8}", printed)  # four digits tell enough


def test_query_commands(demo_bundle: Path) -> None:
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


def test_unknown_ids_are_named(demo_bundle: Path) -> None:
    known = "simulated0000000000001"
    for output in ([], ["--json"]):
        command = ["recommend", demo_bundle, "x", "--current", "?", "--history", known, "--history", "!", *output]
        done = musix(*command)
        assert (done.returncode, done.stderr) == (0, "warning: not in the catalogue: ?, !\n")
        assert done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_console_without_utf8(demo_bundle: Path, tmp_path: Path, encoding: str) -> None:
    bundle = _with_titles(demo_bundle, tmp_path, "\u97f3")  # a Japanese letter
    for command in (["similar", bundle, "simulated0000000000001"], ["recommend", bundle, "listener-001", "--json"]):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([MUSIX, *command], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"ulated Song" in done.stdout


def test_control_characters_of_titles_are_escaped(demo_bundle: Path, tmp_path: Path) -> None:
    start, shown = "\x1b[2J\x9b2J\r\n\u202e", r"\x1b[2J\x9b2J\r\n\u202e"
    bundle = _with_titles(demo_bundle, tmp_path, start)
    for command in (["similar", bundle, "simulated0000000000001"], ["recommend", bundle, "listener-001"]):
        output = musix(*command).stdout
        assert f" - {shown}" in output
        assert _is_printable(output)
        as_json = musix(*command, "--json").stdout
        assert _is_printable(as_json)
        data = json.loads(as_json)
        assert all(track["name"].startswith(start) for track in data.get("tracks") or data["recommendations"])


def test_control_characters_of_a_manifest_are_escaped(copy: Path, small_bundle: Path) -> None:
    manifest = manifests.decode((copy / MANIFEST).read_bytes(), str(copy))
    origin = msgspec.structs.replace(manifest.provenance, packages={"\x1b[2J": "\x1b]0;title\x07\nnumpy"})
    (copy / MANIFEST).write_bytes(manifests.encode(msgspec.structs.replace(manifest, provenance=origin)))
    for command in (["inspect", copy], ["inspect", copy, "--json"], ["diff", small_bundle, copy]):
        done = musix(*command)
        assert (done.returncode, done.stderr) == (0, "")
        assert _is_printable(done.stdout)
    (copy / "manifest.json").write_bytes((copy / MANIFEST).read_bytes().replace(b'"musix-bundle"', b'"\\u001b[2J"'))
    assert _is_printable(musix("inspect", copy).stderr)


def _with_titles(bundle: Path, folder: Path, start: str) -> Path:
    """Return a variant of a bundle in which every title begins with `start`."""
    names = variant(bundle, folder / "draft", "1.0.1", "A") / NAMES
    letters = np.load(names)
    positions = np.load(names.with_name("name_offsets.npy"))[:-1]
    for i, byte in enumerate(start.encode()):
        letters[positions + i] = byte
    np.save(names, letters)
    return variant(folder / "draft", folder / "renamed", "1.0.2")


def _is_printable(text: str) -> bool:
    return all(item.isprintable() or item == "\n" for item in text)


def test_serve_on_a_port_in_use(demo_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = musix("serve", demo_bundle, "--port", port)
    assert result.returncode == 2
    assert f"error: 127.0.0.1:{port}: expected a free port to listen on, found: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["similar", "BUNDLE", "unknown"], 2, "error: trackId: expected a track of the catalogue, found 'unknown'"),
        (
            ["recommend", "BUNDLE", "a", "--limit", "0"],
            2,
            "Invalid value for '--limit': 0 is not in the range 1<=x<=100.",
        ),
        (
            ["recommend", "BUNDLE", "a", "--time-range", "week"],
            2,
            "Invalid value for '--time-range': 'week' is not one",
        ),
        (
            ["recommend", "BUNDLE", "a", "--hour", "24"],
            2,
            "Invalid value for '--hour': 24 is not in the range 0<=x<=23.",
        ),
        (["classify", "BUNDLE"], 2, "error: musix classify: expected TRACK_ID or --features, found neither"),
        (["classify", "BUNDLE", "--features", "{"], 2, "error: --features: expected a JSON object or @FILE, found:"),
        (
            ["classify", "BUNDLE", "--features", "[" * 5000],
            2,
            "error: --features: expected a JSON object or @FILE, found:",
        ),
        (["classify", "BUNDLE", "--features", "9" * 5000], 2, "found: Integer value out of range"),
        (["gc", "BUNDLE", "../demo"], 2, "expected a name of a-z, 0-9, _ and -, found '../demo'"),
        (
            ["serve", "BUNDLE", "--snapshot", "--trust", "none.pub"],
            2,
            "error: none.pub: expected an Ed25519 public key",
        ),
        (["serve", "BUNDLE", "--feedback", ""], 2, "error: --feedback: expected a URL, found an empty text"),
        (
            ["experiment", "start", "r", "demo", "--treatment", "popular", "--listeners", "400", "--share", "nan"],
            2,
            "Invalid value for '--share': 'nan' is not a number.",
        ),
        (
            ["experiment", "start", "r", "demo", "--treatment", "popular", "--listeners", "400", "--share", "1e-9"],
            2,
            "Invalid value for '--share': 1e-09 is not in the range 1e-06<=x<=0.999999.",
        ),
        (
            ["rollout", "start", "r", "demo", "1.1.0", "--listeners", "400", "--max-harm", "nan"],
            2,
            "Invalid value for '--max-harm': 'nan' is not a number.",
        ),
        (["verify", "nothing-here"], 4, "error: nothing-here: expected a bundle folder or file, found nothing"),
        (["classify", "BUNDLE", "--features", "@no.json"], 2, "error: --features @no.json: expected a JSON object or"),
        (["serve", "BUNDLE", "--host", "192.0.2.1"], 2, "8000: expected an address of this machine, found: "),
        (["unheard-of"], 2, "No such command"),
        (["biuld"], 2, "No such command 'biuld'. Did you mean 'build'?"),
        (["experiment", "stat"], 2, "No such command 'stat'. Did you mean 'start'?"),
    ],
)
def test_wrong_input_prints_one_sentence_and_sets_the_exit_code(
    demo_bundle: Path, arguments: list[str], code: int, message: str
) -> None:
    result = musix(*[str(demo_bundle) if item == "BUNDLE" else item for item in arguments])
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_in_place_of_a_bundle_is_named(demo_folder: Path) -> None:
    result = musix("verify", demo_folder)
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.endswith("found a run, of which musix export makes a bundle\n")


def test_a_registry_in_place_of_a_bundle_is_named_with_its_live_bundle(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Registry(tmp_path / "registry").publish(small_bundle)
    monkeypatch.chdir(tmp_path)
    name, live = published.parent.name, published.relative_to(tmp_path)
    commands = ("verify", "inspect", "classify", "recommend", "similar", "diff", "pack", "unpack", "sign", "rebuild")
    for place in (Path("registry"), Path("registry", name)):
        for command in commands:
            with pytest.raises(InputError) as caught:
                CliRunner().invoke(cli, [command, str(place), "x"], catch_exceptions=False)
            assert str(caught.value) == f"{place}: expected a bundle, found a registry; use {live}"
    monkeypatch.chdir(published.parent)
    with pytest.raises(InputError, match=rf"^\.: expected a bundle, found a registry; use {published.name}$"):
        CliRunner().invoke(cli, ["verify", "."], catch_exceptions=False)
    (tmp_path / "other" / "child" / "live").mkdir(parents=True)  # no pointer, so no registry
    done = CliRunner().invoke(cli, ["verify", str(tmp_path / "other")])
    assert isinstance(done.exception, BundleError)


def test_the_ranges_of_options_are_those_of_requests() -> None:
    def refused(**fields: object) -> bool:
        try:
            parse({"userId": "x", **fields}, RecommendRequest)
        except RequestError:
            return True
        return False

    assert queries.TIME_RANGES == TIME_RANGES
    limits, hours = range(-1, queries.MAX_LIMIT + 2), range(-1, queries.MAX_HOUR + 2)
    assert [limit for limit in limits if not refused(limit=limit)] == list(range(1, queries.MAX_LIMIT + 1))
    assert [hour for hour in hours if not refused(context={"hour": hour})] == list(range(queries.MAX_HOUR + 1))


@pytest.mark.parametrize("place", ["", ".", "..", "/"])
@pytest.mark.parametrize(
    "command",
    [
        "pack BUNDLE PLACE",
        "unpack PACKED PLACE",
        "keygen PLACE",
        "build RECIPE --json PLACE",
        "evaluate RUN --json PLACE",
        "report RUN --out PLACE",
        "tune RECIPE --trials 1 --write PLACE",
        "import moods RECIPE --tracks RECIPE --out PLACE",
    ],
)
def test_a_place_without_a_name_is_refused(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str
) -> None:
    open_bundle(small_bundle).pack(tmp_path / "packed.musix")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    known = {
        "BUNDLE": small_bundle,
        "PACKED": tmp_path / "packed.musix",
        "RECIPE": small_bundle.parent / "small.toml",
        "RUN": small_bundle.parents[1] / "runs" / small_bundle.name,
        "PLACE": place,
    }
    done = CliRunner().invoke(cli, [str(known.get(word, word)) for word in command.split()])
    assert isinstance(done.exception, OutputError) or (done.exit_code == 2 and "is a directory" in done.output)
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_folder_itself_is_packed_and_signed(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(small_bundle, tmp_path / "bundle"))
    signature.generate(tmp_path / "ours")
    for command in (["sign", ".", "--key", "../ours.key"], ["pack", "."]):
        assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0
    assert open_bundle(tmp_path / f"{small_bundle.name}.musix", tmp_path / "ours.pub")


def test_all_commands_have_complete_help_texts() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command, name
        assert command.help, name
        for each in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            text = each.get_help(context)
            assert " _" not in text, name  # a name of our code in place of a metavar
            if isinstance(each, click.Group):
                assert "..." not in text.partition("Commands:")[2], name  # a summary that is cut off
            else:
                assert " users" not in text, name
    shown = musix("--help").stdout
    assert "..." not in shown.partition("Commands:")[2]


@pytest.mark.parametrize("command", [["experiment", "status"], ["rollout", "step"], ["monitor"], ["loop"], ["worker"]])
def test_the_database_may_be_given_by_a_variable(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSIX_FEEDBACK", raising=False)
    text = " ".join(CliRunner().invoke(cli, [*command, "--help"]).output.split())
    option = (
        "--feedback URL Database of the feedback, as of `musix serve --feedback`. [env var: MUSIX_FEEDBACK; required]"
    )
    assert option in text
    files = ["--recipe", __file__, "--data", "."] if command[0] in ("loop", "worker") else []
    missing = CliRunner().invoke(cli, [*command, *files, ".", "demo"])
    assert (missing.exit_code, "Missing option '--feedback' (env var: 'MUSIX_FEEDBACK')" in missing.output) == (2, True)


@pytest.mark.parametrize(
    "command",
    [
        ["rollout", "abort", ".", "demo", "--reason"],
        ["rollout", "step", ".", "demo", "--feedback"],
        ["feedback", "export", "--out", "out"],
        ["recommend", "."],
        ["serve", ".", "--host"],
    ],
)
def test_text_that_is_not_utf8(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "text \udcff"])
    assert result.exit_code == 2
    assert result.output.endswith("expected text in UTF-8, found 'text \\udcff'\n")


def test_a_path_may_have_any_bytes(demo_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_bundle, tmp_path / "demo-\udcff")
    assert musix("verify", folder).returncode == 0
