from pathlib import Path

import pytest

from musix_runtime.errors import InputError
from musix_trainer import pipeline, recipe
from musix_trainer.data import families, synthetic
from musix_trainer.data.tracks import read_tracks
from musix_trainer.recipe import Synthetic

OWN = """
no_family = ["party"]
[families]
loud = ["metal", "punk"]
quiet = ["ambient"]
medium = ["pop"]
"""


def test_shipped_families_are_seventeen_of_114_labels() -> None:
    shipped = families.read()
    labels = [label for members in shipped.labels.values() for label in members] + shipped.no_family
    assert len(shipped.names()) == 17
    assert len(labels) == len(set(labels)) == 114
    assert shipped.names() == sorted(shipped.names())


def test_families_of_a_file_are_in_alphabetical_order(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    own = families.read(tmp_path / "own.toml")
    assert own.names() == ["loud", "medium", "quiet"]
    assert own.number_of() == {"metal": 0, "punk": 0, "pop": 1, "ambient": 2, "party": None}
    assert own.source().rows == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("families = 3", "expected TOML with the table families, found: Expected `object`, got `int`"),
        ("[families", "expected TOML with the table families, found"),
        (OWN + 'soft = ["pop"]', "expected each label once, found pop several times"),
        ('[families]\na = ["x"]\nb = ["y"]', "expected 3 to 32 families with printable names, found 2"),
        (OWN + 'jazz = "Jazz"', r"families\.jazz: expected a list of labels, found text"),
        (OWN + 'jazz = ["Jazz", 3]', r"families\.jazz\[1\]: expected text, found a number"),
        ("[familys]", "expected TOML with the table families"),
    ],
)
def test_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(InputError, match=rf"own\.toml: {message}"):
        families.read(tmp_path / "own.toml")
    with pytest.raises(InputError, match=r"none\.toml: expected a file of genre families, found: No such file"):
        families.read(tmp_path / "none.toml")


def test_recipe_names_a_file_of_families_in_the_data_folder(tmp_path: Path) -> None:
    """Every label is of another family than in the shipped file; the file's hash is in the provenance."""
    world = synthetic.generate(Synthetic(tracks=600, listeners=30), 1)
    world.tracks.write_parquet(tmp_path / "tracks.parquet")
    world.listening.write_parquet(tmp_path / "listening.parquet")
    lines = [f"family-{i} = {members}" for i, members in enumerate(families.read().labels.values())]
    (tmp_path / "own.toml").write_text("[families]\n" + "\n".join(lines))
    (tmp_path / "recipe.toml").write_text(
        'name = "own"\nversion = "1.0.0"\nsource = "tables"\n[tables]\nfamilies = "own.toml"\n'
    )
    recipe_file = recipe.read(tmp_path / "recipe.toml")
    tracks, _ = pipeline.tables_of(recipe_file, tmp_path)
    assert sorted(tracks.labels) == sorted(f"family-{i}" for i in range(17))
    trained = pipeline.train(recipe_file, tmp_path, parts=())
    assert trained.provenance.sources["families"].sha256 == families.read(tmp_path / "own.toml").sha256
    assert trained.catalogue.labels == tracks.labels
    shipped = read_tracks(synthetic.generate_tables(Synthetic(tracks=600, listeners=30), 1)["tracks"])
    assert shipped.labels == families.read().names()
