"""The same recipe with and without a table of perceived moods: teacher, gates, parity, golden cases."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from musix_exporter import cli, gates
from musix_runtime.errors import InputError
from musix_runtime.models.parts import open_bundle
from musix_trainer import pipeline, recipe
from musix_trainer.data.synthetic import generate
from musix_trainer.data.tables import Table
from musix_trainer.data.tracks import read_tracks
from musix_trainer.models import mood
from musix_trainer.recipe import Synthetic
from musix_trainer.run import Run
from tests.recipes import SMALL, moods_table

GATES = """
[gates.at_least]
"mood.rule_agreement" = 0.1
"mood.perceived_macro_f1" = 0.1
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with a recipe of tables, and its tables: simulated ones, with moods."""
    world = generate(Synthetic(tracks=800, listeners=100), 0)
    world.tracks.write_parquet(tmp_path / "tracks.parquet")
    world.listening.write_parquet(tmp_path / "listening.parquet")
    moods_table(read_tracks(Table(world.tracks, "tracks", ""))).write_parquet(tmp_path / "moods.parquet")
    text = SMALL.replace('"synthetic"\n', '"tables"\n').replace("[mood]", "[mood]\nexamples = 500")
    (tmp_path / "small.toml").write_text(text + GATES)
    return tmp_path


def train_mood(data: Path, setting: str) -> Run:
    """Train the mood part alone, with a setting of it."""
    text = (data / "small.toml").read_text().replace(GATES, "").replace("[mood]", f"[mood]\n{setting}")
    (data / "small.toml").write_text(text)
    return pipeline.train(recipe.read(data / "small.toml"), data, [mood.PART])


def test_a_table_of_moods_is_the_teacher_and_its_gates_apply(data: Path) -> None:
    options = ["--data", str(data), "--out", str(data)]
    result = CliRunner().invoke(cli.build, [str(data / "small.toml"), *options], catch_exceptions=False)
    assert result.exit_code == 0
    output = result.output
    assert "mood: teacher: perceived moods, as there is a moods table" in output
    bundle = open_bundle(data / "small-1.0.0")
    assert bundle.manifest.quality["mood"]["teacher"] == "perceived"
    assert "moods" in bundle.manifest.provenance.sources
    assert bundle.manifest.parity["mood"] < 1e-5
    measured = {gate.name: gate.found for gate in gates.measure(bundle, recipe.read(data / "small.toml").recipe.gates)}
    assert measured["mood.rule_agreement"] is None
    assert measured["mood.perceived_macro_f1"] == bundle.manifest.quality["mood"]["perceived_macro_f1"]
    assert "skipped" in next(line for line in output.splitlines() if "mood.rule_agreement" in line)


def test_without_a_table_the_rule_is_the_teacher(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "moods.parquet").unlink()
    run = train_mood(data, "")
    assert "mood: teacher: the rule, as there is no moods table" in capsys.readouterr().err
    assert run.quality["mood"]["teacher"] == "rule"
    assert run.moods is None
    skipped = pipeline.inapplicable_keys(run.quality)
    assert "mood.perceived_macro_f1" in skipped
    assert "mood.rule_agreement" not in skipped


def test_recipe_that_chooses_the_rule_keeps_the_table_for_evaluation(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_mood(data, 'teacher = "rule"')
    assert 'mood: teacher: the rule, as mood.teacher is "rule"' in capsys.readouterr().err
    assert run.quality["mood"]["teacher"] == "rule"
    assert run.moods is not None
    assert "moods" in run.provenance.sources


def test_recipe_that_chooses_perceived_moods_requires_the_table(data: Path) -> None:
    (data / "moods.parquet").unlink()
    with pytest.raises(InputError, match=r"mood\.teacher: expected a table moods\.parquet of perceived moods"):
        train_mood(data, 'teacher = "perceived"')
