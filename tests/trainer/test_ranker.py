import numpy as np

from musix_trainer import catalog, recipe, split
from musix_trainer.listening import Listening
from musix_trainer.ranker import train
from musix_trainer.recipe import Catalog
from musix_trainer.run import Run
from musix_trainer.synthetic import World, taken


def test_the_feedback_rule_is_learned(demo_run: Run, world: World) -> None:
    """Scores follow the planted probability: favourite families far above others, fresh above stale."""
    ranker = demo_run.ranker.runtime()
    context = np.array([30, 12], np.float32)
    loved_fresh, loved_stale, other_fresh, other_stale = ranker.scores(
        np.array([[0.5, 0.5, p, f, 0.7] for p in (0.9, 0.0) for f in (0.95, 0.05)], np.float32), context
    )
    assert loved_fresh > loved_stale > other_fresh > other_stale
    assert loved_fresh > 2 * other_fresh
    aucs = demo_run.quality["ranker"]["AUC on held-out listeners"]
    assert aucs["network"] > max(value for name, value in aucs.items() if name != "network")
    assert taken(np.array([True]), np.array([1.0]))[0] > 0.9


def test_without_feedback_it_learns_from_held_out_listening(demo_run: Run) -> None:
    pool = demo_run.pool()
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(200), 5)
    rows = np.concatenate([pool.candidates(*_asker(demo_run, i), 50)[rng.permutation(50)[:5]] for i in range(200)])
    names = [each.decode() for each in demo_run.collab.listeners]
    held_out = Listening(names, number, rows, np.ones(len(rows)), np.zeros(len(rows), np.int64))
    settings = recipe.Ranker(epochs=2)
    model, card = train(pool, demo_run.collab, None, held_out, settings, 1)
    assert card["feedback"].startswith("derived")
    assert card["impressions"] == 5 * card["taken"]
    scores = model.runtime().scores(rng.random((10, 5), np.float32), np.array([3, np.nan], np.float32))
    assert ((scores > 0) & (scores < 1)).all()
    assert split.TRAIN == 0


def _asker(run: Run, number: int) -> tuple:
    from musix_trainer.ranker import _known

    listener, query = _known(run.pool(), run.collab, number)
    return listener, query, listener.heard


def test_freshness_halves_with_every_half_life(demo_run: Run) -> None:
    dates = demo_run.catalogue.frame["release_date"].to_numpy()
    half_life = Catalog().freshness_half_life
    expected = 0.5 ** ((dates.max() - dates) / 86_400 / half_life)
    np.testing.assert_allclose(demo_run.catalog.freshness, expected, rtol=1e-5)
    assert catalog.DAY == 86_400
