"""A build: from a recipe to a bundle whose gates were checked."""

from collections.abc import Callable
from pathlib import Path

from musix_exporter import export, gates
from musix_exporter.build_report import BuildReport
from musix_runtime.atomic import check_free, check_writable, sole_writer
from musix_runtime.bundle.reader import Bundle
from musix_trainer import pipeline, run, tracking
from musix_trainer.models.parts import floors
from musix_trainer.recipe import RecipeFile

Show = Callable[[BuildReport], None]


def build(recipe_file: RecipeFile, data: Path | None, out: Path, show: Show, replace: bool = False) -> Bundle:
    """Train a recipe, and export and verify the bundle `out`/NAME-VERSION. Keeps the run in `out`/runs.

    `show` gets the report before a gate that failed raises GateError; then no bundle is written, but the run is.
    Raises OutputError when the bundle exists and `replace` is False.
    """
    pipeline.check_gates(recipe_file)
    path = out / recipe_file.recipe.label
    run_path = out / "runs" / path.name
    check_place(path, replace)
    if not replace:
        run.check_unevaluated(run_path)
    tracking.check(recipe_file)

    def check(bundle: Bundle) -> None:
        measured = [*gates.floors(bundle.manifest, floors()), *gates.measure(bundle, recipe_file.recipe.gates)]
        show(BuildReport.of(bundle, measured, path, run_path))
        gates.check(measured, path.name, run_path)

    with sole_writer(path.with_name(f"{path.name}.build")):
        trained = pipeline.train(recipe_file, data)
        trained.save(run_path)
        tracking.log(run_path, recipe_file, trained.quality, trained.points)
        bundle = export.export(trained, path, replace, check)
        tracking.log(run_path, recipe_file, {}, digest=bundle.digest)
    return bundle


def check_place(path: Path, replace: bool) -> None:
    """Raise OutputError unless a bundle can be written to `path`."""
    if replace:
        check_writable(path.parent)
    else:
        check_free(path, "use --replace to replace it, or --out for another folder")
