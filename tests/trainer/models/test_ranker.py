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
from musix_trainer.data.synthetic import World, positive_probability
from musix_trainer.models import item_stats
from musix_trainer.models.ranker.candidates import (
    compute_features,
    known_user,
    measured_user,
    retrieve_candidates,
    serving_context,
)
from musix_trainer.models.ranker.examples import TrainingExamples, _draw_heard
from musix_trainer.models.ranker.linear import fit_linear
from musix_trainer.models.ranker.network import RankerModel, RankerNetwork
from musix_trainer.models.ranker.training import _lists, _loss, fit, train
from musix_trainer.recipe import CatalogSection
from musix_trainer.run import Run


def test_scores_follow_the_planted_feedback_rule(demo_run: Run, world: World) -> None:
    """Scores follow the planted probability: favourite families far above others, fresh above stale."""
    retriever, ranker = demo_run.retriever(), demo_run.ranker.runtime()
    rng = np.random.default_rng(0)
    cells = {(loved, fresh): list[float]() for loved in (True, False) for fresh in (True, False)}
    rows_of = dict(demo_run.catalogue.ids.select("track_id", "row").iter_rows())
    rows = np.array([rows_of[each] for each in world.tracks["track_id"][: len(world.family)]])
    for number in range(0, 500, 10):
        sample = rng.permutation(len(rows))[:100]
        user, query = known_user(retriever, demo_run.collab, number)
        components = compute_features(retriever, user, query, rows[sample]).components
        (scores,) = ranker.scores(components, np.array([[30, 12]], np.float32))
        favourite = world.favourite[int(demo_run.collab.listeners[number][-3:]), world.family[sample]]
        for (loved, fresh), values in cells.items():
            values += scores[(favourite == loved) & (abs(world.fresh[sample] - fresh) < 0.2)].tolist()
    loved_fresh, loved_stale, other_fresh, other_stale = (float(np.mean(each)) for each in cells.values())
    assert loved_fresh > loved_stale > other_fresh > other_stale
    assert loved_fresh > 2 * other_fresh
    aucs = demo_run.quality["ranker"]["validation_auc"]
    assert aucs["network"] > max(value for name, value in aucs.items() if name != "network")
    assert positive_probability(np.array([True]), np.array([1.0]))[0] > 0.9


def test_without_impressions_it_trains_on_held_out_interactions(demo_run: Run) -> None:
    retriever = demo_run.retriever()
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(200), 5)
    rows = np.concatenate([_candidates(retriever, demo_run, i)[rng.permutation(50)[:5]] for i in range(200)])
    names = [each.decode() for each in demo_run.collab.listeners]
    held_out = Interactions(names, number, rows, np.ones(len(rows)), np.zeros(len(rows), np.int64))
    settings = recipe.Ranker(epochs=2, negatives=4)
    model, card = train(retriever, demo_run.collab, None, held_out, settings, 1)
    assert card["impressions_source"] == "derived"
    assert card["impressions"] == 5 * card["positives"]
    scores = model.runtime().scores(rng.random((1, 10, 5), np.float32), np.array([[3, np.nan]], np.float32))
    assert ((scores > 0) & (scores < 1)).all()
    assert split.TRAIN == 0


def _candidates(retriever: Retriever, run: Run, number: int) -> np.ndarray:
    return retrieve_candidates(retriever, *known_user(retriever, run.collab, number), 50)


def test_listener_of_an_artist_has_heard_other_tracks_of_it_the_more_popular_the_likelier(demo_run: Run) -> None:
    retriever, rng = demo_run.retriever(), np.random.default_rng(0)
    artists, every = retriever.artists, np.arange(len(demo_run.catalogue))
    listened = np.array([artists.rows[artists.offsets[number]] for number in (3, 5)])
    heard = np.mean([_draw_heard(retriever, listened, every, rng) for _ in range(2000)], axis=0)
    own = np.isin(artists.of(every), (3, 5))
    assert own.sum() > 10
    np.testing.assert_allclose(heard[own], 1 / np.sqrt(1 + artists.ranks[own]), atol=0.05)
    assert not heard[~own].any()


def test_lists_measured_after_a_split_by_artist_have_other_artists_alone(demo_run: Run) -> None:
    retriever, collab = demo_run.retriever(), demo_run.collab
    for by in ("artist", "track"):
        user, query = measured_user(retriever, collab, 7, recipe.Split(by=by))
        rows = retrieve_candidates(retriever, user, query, 10)
        shared = np.isin(retriever.artists.of(rows), retriever.artists.of(user.profile_items))
        assert shared.any() == (by == "track")
        assert serving_context(user)[0] == len(retriever.collab.history(7))


def test_hour_without_training_data_does_not_change_scores(demo_run: Run, engine: Engine) -> None:
    names = [each.decode() for each in demo_run.collab.listeners]
    retriever, rng = demo_run.retriever(), np.random.default_rng(0)
    number, rows = np.repeat(np.arange(50), 4), rng.integers(0, 3000, 200)
    impressions = Impressions(number, rows, np.full(200, np.nan, np.float32), rng.random(200) < 0.5)
    empty = Interactions(names, rows[:0], rows[:0], np.zeros(0), rows[:0])
    model, _ = train(retriever, demo_run.collab, impressions, empty, recipe.Ranker(epochs=1), 1)
    components = rng.random((1, 10, 5), np.float32)
    ranker = model.runtime()
    scores = {tuple(ranker.scores(components, np.array([[9, hour]], np.float32))[0]) for hour in (0, 7, 23, np.nan)}
    assert len(scores) == 1


@pytest.mark.parametrize("positive", [True, False])
def test_impressions_of_one_kind_are_refused(demo_run: Run, positive: bool) -> None:
    impressions = Impressions(np.arange(50), np.arange(50), np.zeros(50, np.float32), np.full(50, positive))
    names = [each.decode() for each in demo_run.collab.listeners]
    empty = Interactions(names, *(np.zeros(0, np.int64),) * 2, np.zeros(0), np.zeros(0, np.int64))
    with pytest.raises(TableError, match="some positive and some negative, found 100 of 50 listeners"):
        train(demo_run.retriever(), demo_run.collab, impressions, empty, recipe.Ranker(epochs=1), 1)


def test_impressions_that_teach_no_order_are_refused() -> None:
    """Each component is less where the impression is positive, so no weight above 0 helps."""
    rng = np.random.default_rng(0)
    positive = rng.random(2000) < 0.3
    components = rng.random((2000, 5)) - 0.5 * positive[:, None] + 0.5
    inputs = np.column_stack([components, np.full(2000, 9.0), np.full(2000, np.nan)]).astype(np.float32)
    number = np.repeat(np.arange(100), 20)
    with pytest.raises(TableError, match="found none in 2,000 impressions; they are the table of feedback, which"):
        fit(TrainingExamples(number, number, inputs, positive), recipe.Ranker(), 1)


def test_freshness_halves_with_each_half_life(demo_run: Run) -> None:
    dates = demo_run.catalogue.frame["release_date"].to_numpy()
    half_life = CatalogSection().freshness_half_life
    expected = 0.5 ** ((dates.max() - dates) / 86_400 / half_life)
    np.testing.assert_allclose(demo_run.catalog.freshness, expected, rtol=1e-5)
    assert item_stats.DAY == 86_400


def test_padding_of_short_lists_does_not_change_the_loss() -> None:
    inputs = np.arange(35, dtype=np.float32).reshape(5, 7)
    positive = np.array([False, True, True, False, False])
    examples = TrainingExamples(np.array([4, 9, 4, 4, 9]), np.array([0, 2, 0, 0, 2]), inputs, positive)
    components, context, labels = _lists(examples, np.ones(5, bool))
    assert components.shape == (2, 3, 5)
    np.testing.assert_array_equal(components[0], inputs[[0, 2, 3], :5])
    np.testing.assert_array_equal(context[1, :2], inputs[[1, 4], 5:])
    np.testing.assert_array_equal(labels[..., 0], [[0, 1, 0], [1, 0, np.nan]])

    logits = torch.tensor([[[0.5], [1.0], [-2.0]], [[0.3], [0.1], [99.0]]])
    present = np.array([0.5, 1.0, -2.0, 0.3, 0.1])
    single = np.mean(np.log1p(np.exp(present)) - present * [0, 1, 0, 1, 0])
    chances = 1 / (1 + np.exp(-present))
    ordered = [-np.log(each[best] / each.sum()) for each, best in ((chances[:3], 1), (chances[3:], 0))]
    assert float(_loss(logits, labels)) == pytest.approx(single + np.mean(ordered), rel=1e-6)


def test_network_begins_at_the_linear_function() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random(5).astype(np.float32)
    network = RankerNetwork((32, 16))
    network.start_at(weights, -1.5)
    components, context = rng.random((2, 7, 5), np.float32), np.array([[3, 9], [0, np.nan]], np.float32)
    logits = network(torch.from_numpy(components), torch.from_numpy(context)).detach().numpy()
    np.testing.assert_allclose(logits[..., 0], components @ weights - 1.5, rtol=1e-5)
    np.testing.assert_allclose(list(RankerModel(network).blend.values()), weights / weights.sum(), atol=1e-6)


def test_linear_weights_follow_the_evidence_and_are_not_negative() -> None:
    """The second component speaks against a track, the last never varies."""
    rng = np.random.default_rng(0)
    components = rng.random((50, 40, 5), np.float32)
    components[..., 4] = 0
    logits = 6 * components[..., 0] - 3 * components[..., 1] + 3 * components[..., 2] - 6
    labels = (rng.random((50, 40)) < 1 / (1 + np.exp(-logits))).astype(np.float32)[..., None]
    weights, _ = fit_linear(_loss, torch.from_numpy(components), torch.from_numpy(labels))
    assert weights[0] > 1.5 * weights[2] > 0
    assert weights[1] == weights[4] == 0
    assert abs(weights[3]) < 0.5


def test_network_without_epochs_is_the_linear_function() -> None:
    rng = np.random.default_rng(0)
    inputs = np.column_stack([rng.random((2000, 5)), np.full(2000, 9.0), np.full(2000, np.nan)]).astype(np.float32)
    positive = rng.random(2000) < inputs[:, 0]
    number = np.repeat(np.arange(100), 20)
    model, card = fit(TrainingExamples(number, number, inputs, positive), recipe.Ranker(epochs=0), 1)
    assert card["best_epoch"] == 0
    assert card["validation_auc"]["network"] == pytest.approx(card["validation_auc"]["linear"])
    assert model.blend["collab"] > 0.8
