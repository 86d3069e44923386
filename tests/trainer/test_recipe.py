import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

from musix_runtime.errors import RecipeError
from musix_trainer import recipe

HEAD = 'name = "a"\nversion = "1.0.0"\nsource = "synthetic"\n'


def test_defaults_are_the_published_hyper_parameters() -> None:
    genre, mood, collab, ranker = recipe.Genre(), recipe.Mood(), recipe.Collab(), recipe.Ranker()
    assert (genre.no_components, genre.learning_schedule, genre.loss, genre.k) == (50, "adadelta", "bpr", 5)
    assert (genre.max_depth, genre.learning_rate, genre.n_estimators) == (7, 0.1, 200)
    assert (genre.subsample, genre.colsample_bytree) == (0.8, 0.8)
    assert (mood.hidden, mood.dropout, mood.learning_rate, mood.batch, mood.epochs) == (
        (64, 32),
        (0.3, 0.2),
        0.001,
        32,
        50,
    )
    assert (collab.no_components, collab.learning_schedule, collab.loss, collab.epochs) == (50, "adadelta", "bpr", 100)
    assert (ranker.hidden, ranker.learning_rate, ranker.batch, ranker.epochs) == ((32, 16), 0.001, 64, 50)
    assert ranker.patience == 10
    assert ranker.blend == {"collab": 0.5, "content": 0.3, "preference": 0, "freshness": 0.1, "diversity": 0.1}


@pytest.mark.parametrize("name", ["demo", "lastfm-tags", "own", "spotify"])
def test_shipped_recipes_are_valid(name: str) -> None:
    assert recipe.read(Path("bundles") / f"{name}.toml").recipe.name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "sead = 1", "sead: unknown key; known here are name, version, source, seed"),
        (HEAD + "[mood]\nhiden = [1, 2]", "mood: hiden: unknown key; known here are hidden, dropout"),
        (HEAD + '[mood]\nbatch = "many"', "mood.batch: expected int, found str"),
        (HEAD + '[mood]\nteacher = "me"', "mood.teacher: expected rule or perceived, found 'me'"),
        (HEAD + '[collab]\nloss = "x"', "collab.loss: expected bpr, warp or logistic, found 'x'"),
        (HEAD.replace("synthetic", "x"), "source: expected synthetic, tables or lastfm, found 'x'"),
        (HEAD + "[mood]\nepochs = 0", "mood.epochs: expected int >= 1, found 0"),
        (HEAD + "[synthetic]\ntracks = 1", "synthetic.tracks: expected int >= 500, found 1"),
        (HEAD + f"[synthetic]\ntracks = {10**12}", f"synthetic.tracks: expected int <= 1000000, found {10**12}"),
        (HEAD + f"[synthetic]\ntracks = {10**30}", "synthetic.tracks: expected int <= 1000000, found 1"),
        (HEAD + "[synthetic]\nlisteners = 1", "synthetic.listeners: expected int >= 20"),
        (HEAD + f"[mood]\nhidden = [64, {10**12}]", "mood.hidden[1]: expected int <= 4096, found 1000"),
        (HEAD + "[tuned.trials]\ncollab = 1000000001", "tuned.trials[...]: expected int <= "),
        (HEAD + "[ranker.blend]\ncollab = 1.0", "ranker.blend: expected collab, content, preference"),
        (HEAD.replace("1.0.0", "latest"), "version: expected str matching regex"),
        (HEAD.replace('name = "a"\n', ""), "top level: object missing required field name"),
        (HEAD + "[mood]\nvalidation = 0.0", "mood.validation: expected float > 0.0, found 0"),
        (HEAD + "[split]\nvalidation = 0.6\ntest = 0.6", "split: expected validation + test below 1, found 1.2"),
        (
            HEAD + '[split]\nby = "time"',
            'split.before: expected a date for by = "time", and none otherwise, found none',
        ),
        (HEAD + "[split]\nbefore = 2010-07-01", 'split.before: expected a date for by = "time", and none otherwise'),
        (
            HEAD + '[split]\nby = "time"\nbefore = "soon"',
            "split.before: expected a date that exists, YYYY-MM-DD, found 'soon'",
        ),
        (HEAD + "[gates.at_least]\n'a' = nan", "gates: at_least: a: expected a finite number, found nan"),
        (HEAD + "[gates.at_most]\ngenre.ece = 1", "gates: at_most: genre: expected a path in quotes, such as"),
        (HEAD + "[gates.bytes]\ngenres = 1", "gates: bytes: genres: unknown key; known here are total, catalog"),
        (HEAD + "[gates.time]\nsimilar = 0", "gates.time.similar: expected float > 0.0, found 0"),
        (HEAD + "[genre]\niqr = inf", "genre: iqr: expected a finite number, found inf"),
        (HEAD + "[tuned.baselines.x]\na = inf", "tuned: baselines: x: a: expected a finite number, found inf"),
        (
            HEAD + "[tuned.baselines]\nx = {a = 1, b = -nan}",
            "tuned: baselines: x: b: expected a finite number, found nan",
        ),
        (HEAD + "[tuned]\ntrials = {collab = -inf}", "tuned: trials: collab: expected a finite number, found -inf"),
        (HEAD + "[mood]\ndropout = [0.1, nan]", "mood: dropout[1]: expected a finite number, found nan"),
        (
            HEAD + "[[tuned.baselines]]\nx = [[inf]]",
            "tuned: baselines[0]: x[0][0]: expected a finite number, found inf",
        ),
        (HEAD + f"[tuned.baselines]\n{'a.' * 90}a = nan", "tuned: baselines: a: a: a: "),
        (HEAD + f"[tuned.baselines]\n{'a.' * 90}a = 1", "tuned.baselines[...][...]: expected float, found object"),
        (HEAD.replace('"a"', '"a\\n"'), "name: expected str matching regex"),
        ("name = ", "expected TOML, found: Invalid value"),
        (
            HEAD + f"[mood]\nhidden = {'[' * 5000}{']' * 5000}",
            "expected TOML, found: values that are nested too deeply",
        ),
        (HEAD + f"seed = {'9' * 5000}", "expected TOML, found: Exceeds the limit"),
        (HEAD + f"seed = {'9' * 4000}", "seed: "),
        (HEAD + f"[gates.at_least]\n'a' = {'9' * 4000}", "gates.at_least"),
        (HEAD + f"{'a.' * 5000}a = 1", "expected TOML, found: 5,000 dots in line 4, at most 300 are allowed"),
    ],
)
def test_invalid_recipe_is_refused_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe.read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def _counts(section: type[recipe.Section], path: str = "") -> Iterator[str]:
    """Yield the keys whose values are whole numbers."""
    for name, type_ in get_type_hints(section).items():
        if isinstance(type_, type) and issubclass(type_, recipe.Section):
            yield from _counts(type_, f"{path}{name}.")
        elif type_ is int:
            yield f"{path}{name}"


@pytest.mark.parametrize("key", [key for key in _counts(recipe.Recipe) if key not in ("seed", "index.exact")])
def test_every_count_has_a_bound(tmp_path: Path, key: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f"{HEAD}{key} = {10**9}")
    with pytest.raises(RecipeError, match=rf"r\.toml: {re.escape(key)}: expected int <= [0-9]+, found 1000000000$"):
        recipe.read(path)


def test_missing_recipe_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected a recipe file, found: No such file"):
        recipe.read(tmp_path / "none.toml")


COMMAND = """
import sys
from click.testing import CliRunner
from musix_runtime.cli.main import musix
found = CliRunner().invoke(musix, sys.argv[1:]).exception
print(type(found).__name__, "torch" in sys.modules)
"""


@pytest.mark.parametrize("command", [["train"], ["build"], ["tune", "--trials", "1"]], ids=lambda words: words[0])
def test_a_wrong_recipe_is_told_before_the_training_libraries_are_imported(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "r.toml").write_text(f"{HEAD}versoin = 1")
    arguments = [sys.executable, "-c", COMMAND, *command, tmp_path / "r.toml", "--out", tmp_path]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "RecipeError False\n"


def test_a_file_that_takes_long_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text(".".join(["a"] * 400_000) + " = 1")
    with pytest.raises(RecipeError, match=r"long\.toml: expected a recipe file, found: more than 16,384 bytes"):
        recipe.read(tmp_path / "long.toml")
