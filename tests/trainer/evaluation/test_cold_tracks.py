"""The protocol `cold_tracks` on planted listening."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation.protocols import EvaluationContext, cold_tracks
from musix_trainer.run import Run


def test_cold_tracks_are_found_by_their_artists(small_folder: Path) -> None:
    """Each of 60 listeners heard all tracks of three of 20 artists; so any other track of these is a cold one."""
    run, rng = Run.load(small_folder), np.random.default_rng(0)
    artists = run.catalogue.artist_numbers
    rows = [np.flatnonzero(np.isin(artists, rng.choice(20, 3, replace=False))) for _ in range(60)]
    listener = np.repeat(np.arange(60), [len(each) for each in rows])
    names, row = [f"listener {i:02d}" for i in range(60)], np.concatenate(rows)
    heard = Interactions(names, listener, row, np.ones(len(row)), np.zeros(len(row), np.int64))
    results = cold_tracks.measure(EvaluationContext(replace(run, interactions=heard), seeds=1))
    ndcg = results["cold_tracks/full"]["ndcg_at_10"]
    assert ndcg["baselines"]["artist_alone"] > 0.99
    assert ndcg["baselines"]["random"] < 0.1
    assert ndcg["better_by"]["random"]["low"] > 0
    assert ndcg["better_by"]["content_alone"]["low"] > 0
