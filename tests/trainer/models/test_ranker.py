import numpy as np
import pytest
import torch

from musix_runtime import Engine
from musix_runtime.errors import TableError
from musix_runtime.models.retrieval import Retriever
from musix_trainer import recipe
from musix_trainer.data import split
from musix_trainer.data.impressions import Impressions
from musix_trainer.data.interactions import Interactions
from musix_trainer.data.synthetic import World, taken
from musix_trainer.models import item_stats
from musix_trainer.models.ranker import TrainingExamples, _lists, _loss, candidates, features_of, known, train
from musix_trainer.recipe import CatalogSection
from musix_trainer.run import Run


def test_the_feedback_rule_is_learned(demo_run: Run, world: World) -> None:
    """Scores follow the planted probability: favourite families far above others, fresh above stale."""
    retriever, ranker = demo_run.retriever(), demo_run.ranker.runtime()
    rng = np.random.default_rng(0)
    cells = {(loved, fresh): list[float]() for loved in (True, False) for fresh in (True, False)}
    rows_of = dict(demo_run.catalogue.ids.select("track_id", "row").iter_rows())
    rows = np.array([rows_of[each] for each in world.tracks["track_id"][: len(world.family)]])
    for number in range(0, 500, 10):
        some = rng.permutation(len(rows))[:100]
        user, query = known(retriever, demo_run.collab, number)
        components = features_of(retriever, user, query, rows[some]).components
        (scores,) = ranker.scores(components, np.array([[30, 12]], np.float32))
        favourite = world.favourite[int(demo_run.collab.listeners[number][-3:]), world.family[some]]
        for (loved, fresh), of in cells.items():
            of += scores[(favourite == loved) & (abs(world.fresh[some] - fresh) < 0.2)].tolist()
    loved_fresh, loved_stale, other_fresh, other_stale = (float(np.mean(of)) for of in cells.values())
    assert loved_fresh > loved_stale > other_fresh > other_stale
    assert loved_fresh > 2 * other_fresh
    aucs = demo_run.quality["ranker"]["validation_auc"]
    assert aucs["network"] > max(value for name, value in aucs.items() if name != "network")
    assert taken(np.array([True]), np.array([1.0]))[0] > 0.9


def test_without_feedback_it_learns_from_held_out_listening(demo_run: Run) -> None:
    retriever = demo_run.retriever()
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(200), 5)
    rows = np.concatenate([_some_candidates(retriever, demo_run, i)[rng.permutation(50)[:5]] for i in range(200)])
    names = [each.decode() for each in demo_run.collab.listeners]
    held_out = Interactions(names, number, rows, np.ones(len(rows)), np.zeros(len(rows), np.int64))
    settings = recipe.Ranker(epochs=2, negatives=4)
    model, card = train(retriever, demo_run.collab, None, held_out, settings, 1)
    assert card["impressions_source"] == "derived"
    assert card["impressions"] == 5 * card["positives"]
    scores = model.runtime().scores(rng.random((1, 10, 5), np.float32), np.array([[3, np.nan]], np.float32))
    assert ((scores > 0) & (scores < 1)).all()
    assert split.TRAIN == 0


def _some_candidates(retriever: Retriever, run: Run, number: int) -> np.ndarray:
    return candidates(retriever, *known(retriever, run.collab, number), 50)


def test_an_hour_that_was_never_seen_has_no_say(demo_run: Run, engine: Engine) -> None:
    names = [each.decode() for each in demo_run.collab.listeners]
    retriever, rng = demo_run.retriever(), np.random.default_rng(0)
    number, rows = np.repeat(np.arange(50), 4), rng.integers(0, 3000, 200)
    shown = Impressions(number, rows, np.full(200, np.nan, np.float32), rng.random(200) < 0.5)
    nothing = Interactions(names, rows[:0], rows[:0], np.zeros(0), rows[:0])
    model, _ = train(retriever, demo_run.collab, shown, nothing, recipe.Ranker(epochs=1), 1)
    components = rng.random((1, 10, 5), np.float32)
    ranker = model.runtime()
    scores = {tuple(ranker.scores(components, np.array([[9, hour]], np.float32))[0]) for hour in (0, 7, 23, np.nan)}
    assert len(scores) == 1


@pytest.mark.parametrize("taken_", [True, False])
def test_feedback_of_one_kind_teaches_nothing(demo_run: Run, taken_: bool) -> None:
    shown = Impressions(np.arange(50), np.arange(50), np.zeros(50, np.float32), np.full(50, taken_))
    names = [each.decode() for each in demo_run.collab.listeners]
    nothing = Interactions(names, *(np.zeros(0, np.int64),) * 2, np.zeros(0), np.zeros(0, np.int64))
    with pytest.raises(TableError, match="some taken and some not, to learn from, found 100 of 50 listeners"):
        train(demo_run.retriever(), demo_run.collab, shown, nothing, recipe.Ranker(epochs=1), 1)


def test_freshness_halves_with_every_half_life(demo_run: Run) -> None:
    dates = demo_run.catalogue.frame["release_date"].to_numpy()
    half_life = CatalogSection().freshness_half_life
    expected = 0.5 ** ((dates.max() - dates) / 86_400 / half_life)
    np.testing.assert_allclose(demo_run.catalog.freshness, expected, rtol=1e-5)
    assert item_stats.DAY == 86_400


def test_lists_of_any_length_are_learned_from_and_what_fills_them_up_has_no_say() -> None:
    inputs = np.arange(35, dtype=np.float32).reshape(5, 7)
    taken_ = np.array([False, True, True, False, False])
    shown = TrainingExamples(np.array([4, 9, 4, 4, 9]), np.array([0, 2, 0, 0, 2]), inputs, taken_)
    components, context, wanted = _lists(shown, np.ones(5, bool))
    assert components.shape == (2, 3, 5)
    np.testing.assert_array_equal(components[0], inputs[[0, 2, 3], :5])
    np.testing.assert_array_equal(context[1, :2], inputs[[1, 4], 5:])
    np.testing.assert_array_equal(wanted[..., 0], [[0, 1, 0], [1, 0, np.nan]])

    logits = torch.tensor([[[0.5], [1.0], [-2.0]], [[0.3], [0.1], [99.0]]])
    there = np.array([0.5, 1.0, -2.0, 0.3, 0.1])
    single = np.mean(np.log1p(np.exp(there)) - there * [0, 1, 0, 1, 0])
    chances = 1 / (1 + np.exp(-there))
    ordered = [-np.log(each[best] / each.sum()) for each, best in ((chances[:3], 1), (chances[3:], 0))]
    assert float(_loss(logits, wanted)) == pytest.approx(single + np.mean(ordered), rel=1e-6)
