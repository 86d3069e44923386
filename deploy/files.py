"""The files that are made of the list: a dashboard that Grafana imports, and alert rules of Prometheus."""

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.watched import ALERTS, SECTIONS, Watched

FOLDER = Path(__file__).parent
HEADER = "# Made by `python -m deploy` of watched.py. What to do at each alert: docs/monitoring.md\n"
RUNBOOK = "docs/monitoring.md#alerts"
PANEL_WIDTH, PANEL_HEIGHT = 8, 8  # of the 24 columns of a dashboard
COLUMNS = 24 // PANEL_WIDTH
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def contents() -> dict[Path, str]:
    """Return the text of each file."""
    return {FOLDER / "grafana.json": json.dumps(dashboard(), indent=2) + "\n", FOLDER / "alerts.yml": alert_rules()}


def alert_rules() -> str:
    """Return the alert rules as YAML."""
    rules = [
        {
            "alert": f"Musix{alert.name}",
            "expr": alert.expression,
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "runbook": RUNBOOK},
        }
        for alert in ALERTS
    ]
    return HEADER + yaml.safe_dump({"groups": [{"name": "musix", "rules": rules}]}, sort_keys=False, width=1000)


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's form. The data source is a variable, which Grafana asks for."""
    variable = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "title": "musix-edge",
        "uid": "musix-edge",
        "schemaVersion": 39,
        "time": {"from": "now-7d", "to": "now"},
        "refresh": "1m",
        "templating": {"list": [variable]},
        "panels": _panels(),
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, section in SECTIONS.items():
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []})
        top += 1
        for i, watched in enumerate(section):
            place = {"x": i % COLUMNS * PANEL_WIDTH, "y": top + i // COLUMNS * PANEL_HEIGHT}
            panels.append(_panel(len(panels) + 1, watched, place))
        top += -(-len(section) // COLUMNS) * PANEL_HEIGHT
    return panels


def _panel(number: int, watched: Watched, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend, "datasource": SOURCE}
        for i, (legend, query) in enumerate(watched.queries.items())
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": watched.title,
        "description": watched.description,
        "datasource": SOURCE,
        "gridPos": {**place, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "fieldConfig": {"defaults": {"unit": watched.unit}, "overrides": []},
        "targets": targets,
    }
