"""The demo from a build to HTTP responses, which must reflect the planted structure of the data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from musix_exporter.cli import build
from musix_runtime import Engine, RecommendRequest
from musix_runtime.errors import OutputError
from musix_runtime.models.mood import MOODS
from musix_trainer.data.synthetic import World, track_id, user_id
from tests.conftest import DEMO, ROOT


def test_build_serve_and_query(demo_build: Path, demo_bundle: Path) -> None:
    assert "the data is simulated" in (demo_build / "stderr").read_text()
    assert (demo_build / "stdout").read_text().splitlines()[-2] == str(demo_bundle)
    again = CliRunner().invoke(build, [str(DEMO), "--out", str(demo_build)])
    assert isinstance(again.exception, OutputError)
    assert str(again.exception) == (
        f"{demo_bundle}: expected a free name, found an existing file or folder; "
        "use --replace to replace it, or --out for another folder"
    )
    asked = subprocess.run(
        [sys.executable, ROOT / "examples" / "ask_over_http.py", demo_bundle],
        capture_output=True,
        text=True,
        check=True,
    )
    classified, recommended = (json.loads(part) for part in asked.stdout.split("\n\n") if part.startswith("{"))
    assert len(classified["data"]["genres"]) == 5
    assert len(recommended["data"]["recommendations"]) == 3


def test_recommendations_match_planted_tastes(engine: Engine, world: World) -> None:
    """Favourites are 3 of 17 families, 18 % by chance; most recommendations are from them."""
    shares = []
    for listener in range(0, 600, 6):
        answer = engine.recommend(RecommendRequest(user_id=user_id(listener)))
        families = [world.family[int(item.id.removeprefix("simulated"))] for item in answer.recommendations]
        shares.append(world.favourite[listener][families].mean())
    assert np.mean(shares) > 0.8


def test_recommendations_match_planted_tastes_of_new_listeners(engine: Engine, world: World) -> None:
    shares = []
    rng = np.random.default_rng(0)
    for mine in world.favourite[:50]:
        history = [track_id(int(row)) for row in rng.choice(np.flatnonzero(mine[world.family]), 5)]
        answer = engine.recommend(RecommendRequest(user_id="somebody new", history=history))
        families = [world.family[int(item.id.removeprefix("simulated"))] for item in answer.recommendations]
        shares.append(mine[families].mean())
    assert np.mean(shares) > 0.6


def test_planted_genres_of_artists_are_found(engine: Engine) -> None:
    card = engine.bundle.manifest.quality["genre"]
    result = card["all_artists"]
    assert result["macro_f1"] > result["baselines"]["artist_lookup"] + 0.02
    assert result["macro_f1"] == pytest.approx(
        result["baselines"]["xgboost_alone"], abs=0.02
    )  # the trees see what the others know
    assert card["ece"] < 0.05


def test_the_card_has_the_shares_of_the_labels_of_the_catalogue(engine: Engine) -> None:
    card, catalog = engine.bundle.manifest.quality["catalog"], engine.catalog
    assert sum(card["mood_shares"].values()) == pytest.approx(1)
    assert card["mood_shares"]["sad"] == np.mean(catalog.moods == MOODS.index("sad"))
    family = catalog.families >> catalog.genres.index(card["largest_family"]) & 1
    assert card["largest_family_share"] == pytest.approx(family.mean())


def test_the_hybrid_is_better_than_any_part_alone(engine: Engine) -> None:
    card = engine.bundle.manifest.quality["hybrid"]
    alone = [card[name]["ndcg_at_10"] for name in ("collab_alone", "content_alone", "popularity_alone")]
    assert card["hybrid"]["ndcg_at_10"] > max(alone)
