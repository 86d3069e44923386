"""All notebooks run from top to bottom with the embedded data."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from musix_trainer.run import Run

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


@pytest.fixture(scope="module")
def saved(demo_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "demo"
    demo_run.save(path)
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")  # of the kernel's own start
def test_notebook(path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSIX_RUN", str(saved))
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # kept without
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    shown = [output.output_type for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "display_data" in shown or "execute_result" in shown
