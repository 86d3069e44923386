"""The files of `deploy/`, read by what will read them: systemd, a parser of PromQL, Grafana's own model, and musix."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard, prometheus

from musix_runtime.cli.main import musix
from tests.conftest import ROOT

FOLDER = ROOT / "deploy"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_bytes())
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
UNITS = sorted([*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")])
EXAMPLES = sorted(path for path in FOLDER.glob("musix-*") if path.suffix != ".timer")
COMMAND = re.compile(r"\bmusix ((?:loop|worker|monitor|rollout step) /[^|[]*)")
TEMPLATE = re.compile(r"\{\{.*?\}\}")
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_rules_are_those_that_prometheus_reads(rule: dict[str, object]) -> None:
    """Fields by https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules; the expression by a parser
    of PromQL, which checks the types of arguments as well."""
    assert set(rule) <= {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
    expression = promql_parser.parse(rule["expr"])
    no_vector = promql_parser.NumberLiteral, promql_parser.StringLiteral, promql_parser.MatrixSelector
    assert not isinstance(expression, no_vector)
    for texts in (rule["labels"], rule["annotations"]):
        assert isinstance(texts, dict)
        assert all(NAME.fullmatch(name) and isinstance(text, str) for name, text in texts.items())
        assert not any(TEMPLATE.search(text) for text in texts.values())


def test_the_dashboard_is_one_of_grafana() -> None:
    """Whatever Grafana's model does not have would be lost in it."""
    register_default_plugins()
    model = dashboard.Dashboard.from_json(DASHBOARD)
    read = json.loads(JSONEncoder().encode(model))
    assert lost(DASHBOARD, read) == []
    targets = [target for panel in model.panels or [] for target in getattr(panel, "targets", None) or []]
    assert len(targets) == sum(len(panel.get("targets", [])) for panel in DASHBOARD["panels"]) > 0
    for target in targets:
        assert isinstance(target, prometheus.Dataquery)
        promql_parser.parse(target.expr)


def lost(written: object, read: object, path: str = "$") -> list[str]:
    """Return the paths of what was written and not read, or read as something else."""
    if isinstance(written, dict) and isinstance(read, dict):
        pairs = [(f"{path}.{key}", value, read.get(key)) for key, value in written.items()]
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(written, read, strict=True))]
    else:
        return [] if written == read else [path]
    return [each for place, *pair in pairs for each in lost(*pair, place)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_units_are_read_by_systemd(tmp_path: Path) -> None:
    """With a program and a user that exist here."""
    for unit in UNITS:
        text = unit.read_text().replace("/opt/musix/bin/musix", "/bin/true").replace("User=musix", "User=root")
        (tmp_path / unit.name).write_text(text)
    paths = [tmp_path / unit.name for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "musix" in line] == []
    assert done.returncode == 0, done.stderr


def test_each_timer_has_its_service() -> None:
    assert [path.stem for path in UNITS if path.suffix == ".timer"] == ["musix-loop", "musix-monitor", "musix-rollout"]
    assert all(path.with_suffix(".service").exists() for path in UNITS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_commands_are_those_of_musix(path: Path) -> None:
    (found,) = COMMAND.findall(text := path.read_text())
    words = shlex.split(found)
    command: click.Command | None = musix
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None
    options = [param for param in command.params if isinstance(param, click.Option)]
    arguments = [param for param in command.params if isinstance(param, click.Argument) and param.required]
    given = words[len(arguments) :: 2]
    assert set(given) <= {name for option in options for name in option.opts}
    by_variable = {option.opts[0] for option in options if option.envvar and re.search(rf"\b{option.envvar}:? ", text)}
    assert {option.opts[0] for option in options if option.required} <= {*given, *by_variable}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_no_password_is_on_a_command_line(path: Path) -> None:
    (found,) = COMMAND.findall(path.read_text())
    assert not re.search(r"\$|://[^/@ ]*:[^/@ ]*@", found.replace("[ $? -eq 5 ]", ""))


def test_nothing_that_the_loop_writes_is_lost_between_two_runs() -> None:
    job = yaml.safe_load((FOLDER / "musix-loop.cronjob.yml").read_text())
    volumes = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    assert [volume["name"] for volume in volumes if "emptyDir" in volume] == []
