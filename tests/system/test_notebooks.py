"""All notebooks run, with a small run of simulated data."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "trainer" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_five_notebooks() -> None:
    names = [
        "data_exploration",
        "genre_classification",
        "model_evaluation",
        "mood_classification",
        "recommendation_system",
    ]
    assert [path.stem for path in NOTEBOOKS] == names


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # of the kernel's own start
def test_notebooks_run_from_top_to_bottom(small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel runs all, as imports take longer. Its variables are deleted before each notebook."""
    run = shutil.copytree(small_folder, tmp_path / "small")  # which gets results of the evaluation
    monkeypatch.setenv("MUSIX_RUN", str(run))
    notebooks = [nbformat.read(path, as_version=4) for path in NOTEBOOKS]
    assert not any(cell.get("outputs") for notebook in notebooks for cell in notebook.cells)  # kept without
    together = nbformat.v4.new_notebook()
    for notebook in notebooks:
        together.cells += [nbformat.v4.new_code_cell("%reset -f"), *notebook.cells]
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(together, timeout=300, kernel_name="python3", resources=resources).execute()
    for path, notebook in zip(NOTEBOOKS, notebooks, strict=True):
        shown = {output.output_type for cell in notebook.cells for output in cell.get("outputs", ())}
        assert shown & {"display_data", "execute_result"}, path
