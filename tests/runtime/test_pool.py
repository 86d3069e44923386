from dataclasses import replace

import msgspec
import numpy as np
import pytest

from musix_runtime import Engine
from musix_runtime.index import Index
from musix_runtime.pool import NOBODY, Listener, Question
from musix_runtime.ranker import COMPONENTS

BLEND = {"collab": 0.5, "content": 0.25, "preference": 0.125, "freshness": 0.0625, "diversity": 0.0625}


def test_the_ranker_sees_the_best_by_the_blend_in_the_given_order(engine: Engine) -> None:
    serving = msgspec.structs.replace(engine.pool.serving, pool=2, blend=BLEND)
    pool = replace(engine.pool, serving=serving)
    rng = np.random.default_rng(1)
    for count in range(3, 60):
        rows = rng.choice(len(engine.catalog), count, replace=False)
        query = pool.content.vectors(rows[:1])[0]
        every, vectors, components = pool.features(NOBODY, query, rows)
        assert every.tolist() == rows.tolist()
        np.testing.assert_array_equal(vectors, pool.content.vectors(rows))
        blends = (components.astype(np.float64) * list(BLEND.values())).sum(axis=1)
        best = np.sort(np.argsort(-blends.round(6), kind="stable")[:2])
        kept, their_vectors, their_components = pool.features(NOBODY, query, rows, 1)
        assert kept.tolist() == rows[best].tolist()
        np.testing.assert_array_equal(their_vectors, vectors[best])
        np.testing.assert_array_equal(their_components, components[best])


def test_nobody_is_proposed_what_is_popular_but_for_the_excluded(engine: Engine) -> None:
    popular = engine.pool.popular
    found = engine.pool.candidates(NOBODY, None, popular[:3].astype(np.int64), 10)
    count = 2 * engine.pool.serving.candidates
    assert found.tolist() == sorted(popular[3 : 3 + count].tolist())


def test_what_is_excluded_makes_room_for_others(engine: Engine) -> None:
    pool, none = engine.pool, np.empty(0, np.int64)
    query = pool.content.vectors(np.array([5]))[0]
    first = pool.candidates(NOBODY, query, none, 10)
    second = pool.candidates(NOBODY, query, first, 10)
    assert len(second) == len(first)
    assert not np.isin(second, first).any()
    named = pool.candidates(NOBODY, query, none, 10, lambda rows: np.isin(rows, first))
    assert named.tolist() == second.tolist()


def test_preference_follows_those_who_heard_the_same_and_less_the_family(engine: Engine) -> None:
    """Rows 0 to 3 are heard together, 4 and 5 too; row 6 by nobody. Rows 0, 4 and 6 are of the family of the taste."""
    tastes = np.zeros((6, 2), np.float32)
    tastes[:4, 0], tastes[4:, 1] = 1 / 2, 1 / np.sqrt(2)
    few = Index(np.ones((6, engine.pool.collab.track_mean.size), np.float32))
    collab = replace(engine.pool.collab, rows=np.arange(6, dtype=np.int32), index=few, tastes=tastes)
    families = engine.pool.families.copy()
    families[:7] = [1, 2, 2, 2, 1, 2, 1]
    pool = replace(engine.pool, collab=collab, families=families)

    def preference(*taste: int) -> list[float]:
        listener = replace(NOBODY, taste=np.array(taste, np.int64))
        return pool.features(listener, None, np.arange(7))[2][:, COMPONENTS.index("preference")].tolist()

    assert preference(0) == pytest.approx([0.4, 0.25, 0.25, 0.25, 0.2, 0, 0.2])
    assert preference(0, 6) == preference(0)
    assert preference(0, 1, 2, 3, 1, 1) == pytest.approx([1, 1, 1, 1, 0.04, 0.2, 0.04])
    assert preference() == [0] * 7


@pytest.mark.parametrize("row", [-1, 10**9])
def test_rows_beyond_the_catalogue_are_refused(engine: Engine, row: int) -> None:
    with pytest.raises(ValueError, match="expected rows that there are"):
        engine.pool.features(NOBODY, None, np.array([0, row]))
    with pytest.raises(ValueError, match="expected rows that there are"):
        engine.pool.features(replace(NOBODY, taste=np.array([row])), None, np.array([0]))
    with pytest.raises(ValueError, match="expected rows that there are"):
        engine.pool.content.profile(np.array([row]))


def test_a_search_finds_the_features_of_the_candidates_of_every_question(engine: Engine) -> None:
    pool, none = engine.pool, np.empty(0, np.int64)
    collab, content = pool.collab, pool.content
    heard = collab.history(3)
    known = Listener(collab.matches(collab.listener_factors[3]), heard, heard)
    query = content.profile(heard)
    every = len(engine.catalog)
    asked = [
        Question(known, query, 10, heard),
        Question(known, None, 3, none),
        Question(NOBODY, query, 100, heard),
        Question(NOBODY, None, 10, none),
        Question(known, query, 5, heard, lambda rows: rows % 2 == 0),
        Question(NOBODY, None, 20, np.arange(every - 15)),  # which leaves fewer than are asked for
    ]
    for question, found in zip(asked, pool.search(asked), strict=True):
        rows = pool.candidates(question.listener, question.query, question.excluded, question.limit, question.named)
        expected = pool.features(question.listener, question.query, rows, question.limit)
        for one, other in zip(expected, (found.rows, found.vectors, found.components), strict=True):
            np.testing.assert_array_equal(one, other)
        assert found.seconds > 0
    assert pool.search([]) == []


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, np.zeros(3, np.float32), "expected factors and a query as wide as the vectors"),
        (1, np.zeros(29, np.float32), "expected factors and a query as wide as the vectors"),
        (3, np.array([10**9]), "expected rows that there are"),
        (4, np.empty(7, np.int64), "a vector and components a row"),
        (6, np.zeros((400, 5), np.float64), "components: expected items of kind 'f', found 'd'"),
        (8, -1, "a vector and components a row"),
    ],
)
def test_a_search_refuses_a_question_that_is_none(engine: Engine, place: int, value: object, error: str) -> None:
    good = engine.pool._given(Question(NOBODY, np.zeros(28, np.float32), 10, np.empty(0, np.int64)))
    wrong = (*good[:place], value, *good[place + 1 :])
    with pytest.raises((TypeError, ValueError), match=error):
        engine.pool._kernel.search([good, wrong])
    with pytest.raises(TypeError):
        engine.pool._kernel.search([[]])


def test_an_excluded_row_that_there_is_not_excludes_nothing(engine: Engine) -> None:
    collab = engine.pool.collab
    known = Listener(collab.matches(collab.listener_factors[0]), NOBODY.heard, NOBODY.taste)
    none, odd = np.empty(0, np.int64), np.array([-(10**12), -1, 10**12])
    found, same = engine.pool.search([Question(known, None, 10, none), Question(known, None, 10, odd)])
    assert found.rows.tolist() == same.rows.tolist()
