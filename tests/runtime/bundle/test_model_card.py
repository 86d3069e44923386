"""The model card of a bundle: front matter, figures, and names that cannot leave their line."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from musix_runtime.bundle.manifest import MANIFEST, Manifest, SourceInfo, decode
from musix_runtime.cli.main import musix
from musix_runtime.errors import InputError
from musix_runtime.inspection.model_card import model_card
from tests.runtime.bundle.test_verdict import figure


def test_model_card_has_front_matter_and_figures(demo_bundle: Path) -> None:
    result = CliRunner().invoke(musix, ["inspect", str(demo_bundle), "--model-card"], catch_exceptions=False)
    _, front, text = result.stdout.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "musix-edge"
    assert fields["datasets"] == ["feedback", "listening", "tracks"]
    (index,) = fields["model-index"]
    assert index["name"] == "demo-1.0.0"
    for each in index["results"]:
        assert {*each} == {"task", "dataset", "metrics"}
        assert all({*metric} == {"type", "value", "name"} for metric in each["metrics"])
    for title in ("Intended use", "Limits", "Training data", "Figures", "How to serve it"):
        assert f"\n## {title}\n" in text
    assert "is simulated (feedback, listening, tracks)" in text
    with pytest.raises(InputError, match="expected --json or --model-card, found both"):
        CliRunner().invoke(musix, ["inspect", str(demo_bundle), "--json", "--model-card"], catch_exceptions=False)


@pytest.mark.parametrize(
    "evaluation",
    [[], "none", {"genre": 1}, {"genre": {"x": 2}}, {"genre": {"x": {"macro_f1": 3, "ece": {"value": "a"}}}}],
)
def test_unusual_quality_cards_are_shown(demo_bundle: Path, evaluation: Any) -> None:
    manifest = _manifest(demo_bundle)
    quality = {**dict.fromkeys(manifest.quality, 1), "evaluation": evaluation, "mood": {"teacher": 5}}
    assert "No figure has an interval yet" in "\n".join(model_card(_with(manifest, quality=quality), ""))


def test_names_of_a_bundle_stay_in_their_line(demo_bundle: Path) -> None:
    manifest = _manifest(demo_bundle)
    name = 'a"\n---\n# owned | <b>'
    figures = {name: {name: {name: figure(0.5, {name: (0.4, 0.1, 0.2)})}}}
    source = SourceInfo("0" * 64, 1, False, {name: name, "derivation": name})
    origin = msgspec.structs.replace(manifest.provenance, sources={name: source})
    lines = model_card(_with(manifest, quality={"evaluation": figures}, provenance=origin), "")
    assert not any(
        "\n" in line or line.startswith("# owned") or "<b>" in line for line in lines[lines.index("---", 1) :]
    )
    assert yaml.safe_load("\n".join(lines[1 : lines.index("---", 1)]))["datasets"] == [name]


def _manifest(bundle: Path) -> Manifest:
    return decode((bundle / MANIFEST).read_bytes(), "")


def _with(manifest: Manifest, **changes: Any) -> Manifest:
    return msgspec.structs.replace(manifest, **changes)
