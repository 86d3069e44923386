"""The demo from a build to HTTP responses, which must reflect the planted structure of the data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musix_runtime import Engine, RecommendRequest
from musix_trainer.data.synthetic import World, track_id, user_id
from tests.conftest import DEMO, ROOT

MUSIX = Path(sys.executable).with_name("musix")


def test_build_serve_and_query(tmp_path: Path, demo_bundle: Path) -> None:
    """The command line gives the bundle that the library gave, byte for byte, in another process and folder with other
    hashes and threads; and its server answers."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "99",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "TZ": "Asia/Tokyo",
    }
    command = [MUSIX, "build", DEMO, "--out", tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    bundle = tmp_path / "demo-1.0.0"
    assert (bundle / "manifest.json").read_bytes() == (demo_bundle / "manifest.json").read_bytes()
    assert "the data is simulated" in built.stderr
    assert built.stdout.splitlines()[-2] == str(bundle)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr == (
        f"error: {bundle}: expected a free name, found an existing file or folder; "
        "use --replace to replace it, or --out for another folder\n"
    )
    asked = subprocess.run(
        [sys.executable, ROOT / "examples" / "ask_over_http.py", bundle], capture_output=True, text=True, check=True
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


def test_the_hybrid_is_better_than_any_part_alone(engine: Engine) -> None:
    card = engine.bundle.manifest.quality["hybrid"]
    alone = [card[name]["ndcg_at_10"] for name in ("collab_alone", "content_alone", "popularity_alone")]
    assert card["hybrid"]["ndcg_at_10"] > max(alone)
