"""Examples: lists for real listeners of a run, as the runtime would serve them, with reasons."""

from dataclasses import dataclass

import numpy as np

from musix_runtime.models import because
from musix_runtime.models.arrays import ABSENT, RaggedRows, Rows
from musix_runtime.models.responses import REASONS
from musix_trainer.data import split
from musix_trainer.models.collab import relevant_rows
from musix_trainer.models.ranker.candidates import known_user, select, serving_context
from musix_trainer.run import Run

N_LISTENERS = 10
N_HEARD = 5
N_PROPOSED = 10


@dataclass(frozen=True)
class Proposal:
    """A proposed track, why, the heard tracks that speak for it, and whether it is among the held-out ones."""

    track: str
    reason: str
    because: list[str]
    held_out: bool


@dataclass(frozen=True)
class Example:
    """The newest tracks that a listener heard, how many it heard in all, and its list. A track is "title, artist"."""

    heard: list[str]
    n_heard: int
    proposals: list[Proposal]


def examples(run: Run) -> list[Example]:
    """Return the lists of listeners with at least `N_HEARD` tracks in training, chosen by the run's seed."""
    sizes = np.diff(run.collab.history_offsets)
    able = np.flatnonzero(sizes >= N_HEARD)
    rng = np.random.default_rng(run.recipe.seed)
    chosen = rng.choice(able, min(N_LISTENERS, len(able)), replace=False)
    artists = run.catalogue.primary_artists()
    parts = split.split_interactions(run.interactions, artists, run.recipe.split, run.recipe.seed)
    held_out = relevant_rows(run.collab, run.interactions.select(parts == split.TEST))
    return [_example(run, number, held_out.get(number, set())) for number in chosen.tolist()]


def _example(run: Run, number: int, held_out: set[int]) -> Example:
    retriever, ranker = run.retriever(), run.ranker.runtime()
    user, query = known_user(retriever, run.collab, number)
    rows, components = select(retriever, ranker, user, query, N_PROPOSED)
    _, values = ranker.explain(components[None], serving_context(user)[None])
    causes = because.causes(retriever, RaggedRows.of([user.profile_items]), np.array([ABSENT]), rows[None], values)
    proposals = [
        Proposal(track, reason, _tracks(run, heard[heard != ABSENT]), row in held_out)
        for track, reason, heard, row in zip(
            _tracks(run, rows), REASONS.reasons(values[0]), causes.rows[0], rows.tolist(), strict=True
        )
    ]
    return Example(_tracks(run, user.history[:N_HEARD]), len(user.history), proposals)


def _tracks(run: Run, rows: Rows) -> list[str]:
    artists, titles = run.catalogue.texts(rows)
    return [f"{title}, {', '.join(names)}" for title, names in zip(titles, artists, strict=True)]
