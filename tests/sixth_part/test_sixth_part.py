"""A part that is declared in one module of each package is trained, saved, exported, verified and loaded."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from musix_exporter import export
from musix_exporter.parts import PARTS as EXPORTER_PARTS
from musix_runtime import Engine
from musix_runtime.errors import LayoutError, ManifestError, RecipeError
from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.models.parts import PARTS as RUNTIME_PARTS
from musix_trainer import recipe
from musix_trainer.models.parts import PARTS as TRAINER_PARTS
from musix_trainer.pipeline import check_gates, train
from musix_trainer.run import Run
from tests.recipes import SMALL
from tests.runtime.hostile.build import change_array, replace_array
from tests.sixth_part import exporter, runtime, trainer

GATE = '[gates.at_least]\n"tempo.families" = 2\n'
PARTS = (*RUNTIME_PARTS, runtime.PART)


@pytest.fixture(scope="module")
def tempo_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the sixth part, read from its folder."""
    folder = tmp_path_factory.mktemp("tempo")
    (folder / "small.toml").write_text(SMALL + GATE)
    parts = (*TRAINER_PARTS, trainer.PART)
    train(recipe.read(folder / "small.toml"), None, parts).save(folder / "run")
    return Run.load(folder / "run", parts)


@pytest.fixture(scope="module")
def tempo_bundle(tempo_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "small-1.0.0"
    return export.export(tempo_run, path, parts=(*EXPORTER_PARTS, exporter.PART)).path


def test_new_part_from_training_to_the_engine(tempo_run: Run, tempo_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tempo_bundle, tmp_path / "small-1.0.0"))
    engine = Engine.open(bundle, parts=PARTS)
    catalogue = tempo_run.catalogue
    tempo = catalogue.inputs[:, AUDIO_NAMES.index("tempo")]
    expected = [tempo[catalogue.families[:, i]].mean() for i in range(len(catalogue.labels))]
    assert engine.model(runtime.PART).means == pytest.approx(expected)
    manifest = engine.bundle.manifest
    assert "tempo/means.npy" in manifest.files
    assert manifest.parity["tempo"] == 0
    assert manifest.quality["tempo"] == {"families": len(expected)}

    wrong = np.load(bundle / "tempo" / "means.npy")
    change_array(bundle, "tempo/means.npy", lambda array: array.fill(-1))
    with pytest.raises(LayoutError, match=r"tempo/means: expected values in 0\.\.300, found -1"):
        Engine.open(bundle, parts=PARTS)
    replace_array(bundle, "tempo/means.npy", wrong[1:])
    with pytest.raises(LayoutError, match=r"tempo/means\.npy: expected \(dtype, shape"):
        Engine.open(bundle, parts=PARTS)


def test_a_gate_on_a_figure_of_an_unregistered_part_is_refused(tempo_run: Run) -> None:
    check_gates(tempo_run.recipe_file, (*TRAINER_PARTS, trainer.PART))
    with pytest.raises(RecipeError, match=r"gates\.at_least: 'tempo\.families': expected a key of the quality card"):
        check_gates(tempo_run.recipe_file)


def test_a_bundle_with_an_unregistered_part_is_refused(tempo_bundle: Path, small_bundle: Path) -> None:
    with pytest.raises(ManifestError, match=r"\['tempo/means\.npy'\] unknown"):
        Engine.open(tempo_bundle)
    with pytest.raises(ManifestError, match=r"found \['tempo/means\.npy'\] missing"):
        Engine.open(small_bundle, parts=PARTS)
