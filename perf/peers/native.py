"""Native: a usual server of the trained models with FastAPI, PyTorch, XGBoost and LightFM factors."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, HTTPException
from xgboost import XGBClassifier

from perf.peers import arguments, schema
from perf.peers.recommender import Floats, Recommender, UnknownTrackError

FLOOR = 1e-6
NAMELESS = ("titles", "sound", "audio")  # models that read no artist
POPULARITY, N_NAMES = 12, 5  # column of the inputs; kinds of names, each with its own calibration


class NativeModels:
    """The models, run by the libraries that trained them."""

    def __init__(self, folder: Path) -> None:
        self.boosters = {name: XGBClassifier() for name in ("booster", "titles", "sound", "audio")}
        for name, booster in self.boosters.items():
            booster.load_model(folder / f"{name}.ubj")
        self.ensemble: dict[str, Any] = joblib.load(folder / "genre.joblib")
        self.mood_network: dict[str, Any] = torch.load(folder / "mood.pt", weights_only=False)
        self.ranker_network = torch.load(folder / "ranker.pt", weights_only=False).eval()

    def genre(self, inputs: Floats, artist: Floats, case: Floats) -> Floats:
        """Return the calibrated average of LightFM's and XGBoost's scores, calibrated by names and popularity."""
        of = self.ensemble
        row = case[:, 0].astype(int) + N_NAMES * np.isnan(inputs[:, POPULARITY])
        weights, biases, platt = of["weights"][row], of["biases"][row], of["platt"][row]
        factors, said = np.split(artist, [artist.shape[1] - of["family_biases"].size], axis=1)
        scores = (self._lightfm(inputs, factors), *self._xgboost(inputs, said, case))
        logits = sum(weights[:, [i]] * each for i, each in enumerate(scores)) + biases
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        share = np.clip(powers / powers.sum(axis=1, keepdims=True), FLOOR, 1 - FLOOR)
        odds = np.log(share) - np.log(1 - share)
        return np.asarray(1 / (1 + np.exp(-(platt[:, :1] * odds + platt[:, 1:]))), np.float32)

    def _lightfm(self, inputs: Floats, artist: Floats) -> Floats:
        of = self.ensemble
        bins = of["edges"].shape[1] + 1
        place = (inputs[:, :, None] >= of["edges"]).sum(axis=2) + np.arange(inputs.shape[1]) * bins
        binned = of["bin_factors"][place] * ~np.isnan(inputs)[:, :, None]
        track = artist + of["bin_weight"] * binned.sum(axis=1)
        return np.asarray(track[:, :-1] @ of["family_factors"].T + track[:, -1:] + of["family_biases"], np.float32)

    def _xgboost(self, inputs: Floats, said: Floats, case: Floats) -> list[Floats]:
        clipped = np.clip(inputs, self.ensemble["low"], self.ensemble["high"])
        energy, loudness, valence, tempo = (clipped[:, i] for i in (1, 3, 9, 10))
        mix = energy * valence, tempo / (1 + np.abs(loudness))
        sound = np.column_stack([clipped, *mix])
        evidence = np.column_stack([sound, said, np.zeros_like(said), case])  # without titles
        lean = np.where(case == 1, 1, 0.5).astype(np.float32) * said
        titled = np.hstack([sound, np.zeros_like(said)])
        audio = sound[:, [*range(12), 15, 16]]
        shares = [self.boosters["booster"].predict_proba(evidence, base_margin=lean)]
        shares += [
            self.boosters[name].predict_proba(each) for name, each in zip(NAMELESS, (titled, sound, audio), strict=True)
        ]
        return [np.log(np.maximum(each, FLOOR)) for each in shares]

    def mood(self, audio: Floats) -> Floats:
        """Return the output of the mood network."""
        of = self.mood_network
        with torch.no_grad():
            given = torch.from_numpy(audio)
            whole = torch.where(torch.isnan(given), of["median"], given)
            logits = of["layers"]((whole - of["mean"]) / of["scale"])
            focus = of["focus_limit"] * torch.sigmoid(logits[:, 4:])
            return np.asarray(torch.cat([torch.softmax(logits[:, :4], dim=1) * (1 - focus), focus], dim=1).numpy())

    def score(self, components: Floats, context: Floats) -> Floats:
        """Return the output of the ranker network, with the same context for all rows."""
        heard, hour = context.tolist()
        angle = 0.0 if np.isnan(hour) else hour * 2 * np.pi / 24
        clock = (0.0, 0.0) if np.isnan(hour) else (np.sin(angle), np.cos(angle))
        shared = np.array([np.log1p(heard) / np.log1p(100), *clock], np.float32)
        rows = np.concatenate([components, np.broadcast_to(shared, (len(components), 3))], axis=1)
        with torch.no_grad():
            return np.asarray(torch.sigmoid(self.ranker_network(torch.from_numpy(rows)))[:, 0].numpy())


@asynccontextmanager
async def _few_threads(app: FastAPI) -> AsyncIterator[None]:
    """Limit the threads to the number of cores: with the default of 40, throughput at 32 connections is a third."""
    to_thread.current_default_thread_limiter().total_tokens = os.cpu_count() or 1
    yield


def create_app(folder: Path) -> FastAPI:
    """Return the application with all models loaded."""
    recommender = Recommender(folder, NativeModels(folder))
    app = FastAPI(lifespan=_few_threads)

    @app.post("/api/ml/classify")
    def classify(question: schema.Classify) -> dict[str, Any]:
        return {"success": True, "data": _known(recommender, [question])[0]}

    @app.post("/api/ml/classify/batch")
    def classify_batch(questions: list[schema.Classify]) -> dict[str, Any]:
        return {"success": True, "data": _known(recommender, questions)}

    @app.post("/api/ml/recommend")
    def recommend(question: schema.Recommend) -> dict[str, Any]:
        return {"success": True, "data": recommender.recommend(question)}

    return app


def _known(recommender: Recommender, questions: list[schema.Classify]) -> list[dict[str, Any]]:
    try:
        return recommender.classify(questions)
    except UnknownTrackError as error:
        raise HTTPException(404, f"unknown track: {error}") from error


if __name__ == "__main__":
    given = arguments.read()
    given_app = create_app(given.native)
    uvicorn.run(given_app, host=given.host, port=given.port, access_log=False)
