"""The dashboard and the alert rules: made of the list of what is watched, and of series that a real server has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.files import contents
from deploy.watched import ALERTS, WATCHED
from musix_runtime import Registry
from tests.conftest import ROOT
from tests.system.servers import CLIENT, serving

SERIES = re.compile(r"\b((?:musix|process)_[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)="([^"]*)"')
SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ", re.MULTILINE)
OF_PROMETHEUS = {"up"}
FOLDER = ROOT / "deploy"


def expressions() -> list[str]:
    """Return the PromQL of both files."""
    dashboard = json.loads((FOLDER / "grafana.json").read_bytes())
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [*targets, *(rule["expr"] for rule in rules)]


def selected(expression: str) -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
    """Yield the name of each series in an expression, and the labels that it must have."""
    for name, labels in SERIES.findall(expression):
        yield name, frozenset(LABEL.findall(labels))


def test_the_files_are_those_of_the_list() -> None:
    for path, text in contents().items():
        assert path.read_text() == text, f"{path}: run python -m deploy"


def test_every_expression_names_a_series() -> None:
    for expression in expressions():
        assert list(selected(expression)) or any(name in expression for name in OF_PROMETHEUS), expression
        assert expression.count("(") == expression.count(")"), expression


@pytest.mark.parametrize("workers", [1, 2])
def test_every_series_exists_from_the_start(small_bundle: Path, tmp_path: Path, workers: int) -> None:
    registry = Registry(tmp_path / "registry")
    registry.publish(small_bundle)
    options = ["--workers", workers, "--feedback", f"sqlite:///{tmp_path / 'feedback.db'}"]
    with serving(registry.path, *options) as (url, _):
        text = CLIENT.get(f"{url}/metrics").text
    samples = [(name, set(LABEL.findall(labels))) for name, labels in SAMPLE.findall(text)]
    missing = {
        (name, labels)
        for expression in expressions()
        for name, labels in selected(expression)
        if not any(name == found and labels <= of_sample for found, of_sample in samples)
    }
    assert missing == set()


def test_alert_rules_have_the_form_of_prometheus() -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    assert set(group) == {"name", "rules"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) == len(ALERTS)
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch("Musix[A-Za-z]+", rule["alert"])
        assert re.fullmatch("[0-9]+[smhd]", rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_bytes())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [panel["title"] for panel in panels if panel["type"] != "row"] == [watched.title for watched in WATCHED]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(0 <= x < 24 for x, _ in cells)


def test_the_documents_say_what_to_do_at_each_alert() -> None:
    rows = re.findall(r"^\| `Musix(\w+)` \|", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    assert rows == [alert.name for alert in ALERTS]
