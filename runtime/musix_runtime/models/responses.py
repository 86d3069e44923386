"""Responses: the numbers of a batch, rounded, with labels and reasons, as they are sent."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from musix_runtime.models import explanation
from musix_runtime.models.arrays import ABSENT, Floats, Rows, Scores, gather
from musix_runtime.models.because import Causes
from musix_runtime.models.catalog import Catalog
from musix_runtime.models.explanation import ReasonWriter
from musix_runtime.models.mood import MOODS
from musix_runtime.models.ranker import COMPONENTS, MICRO
from musix_runtime.models.resolve import Resolved
from musix_runtime.schemas import (
    Cause,
    ClassifyResponse,
    GenreConfidence,
    MoodPrediction,
    Recommendation,
    RecommendResponse,
)

TOP_GENRES = 5
DIGITS = 4  # of a confidence or probability: the sixth already depends on host and batch
# What the components are called in a reason.
REASON_LABELS = ("similar listeners", "similar sound", "related artists", "new release", "variety of the list")
REASONS, POPULAR_REASONS = ReasonWriter(REASON_LABELS), ReasonWriter(("popularity", *REASON_LABELS[1:]))
CONTRIBUTIONS = ("base", *COMPONENTS)


def classifications(
    families: Sequence[str], confidences: Floats, moods: Floats, evidence: list[list[str]]
) -> list[ClassifyResponse]:
    """Return the responses of n tracks with confidences (n, families), moods (n, moods), and evidence of each."""
    shares, chances = _rounded(confidences), _rounded(moods)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :TOP_GENRES]
    timestamp = _now()
    columns = (each.tolist() for each in (best, shares, chances, chances.argmax(axis=1)))
    return [
        ClassifyResponse(
            [GenreConfidence(families[i], share[i]) for i in genres],
            MoodPrediction(MOODS[primary], dict(zip(MOODS, probabilities, strict=True))),
            timestamp,
            known,
        )
        for genres, share, probabilities, primary, known in zip(*columns, evidence, strict=True)
    ]


def recommendations(
    catalog: Catalog, resolved: Resolved, rows: Rows, counts: Rows, base: Scores, values: Scores, causes: Causes
) -> list[RecommendResponse]:
    """Return the responses of a batch: of its `rows` (batch, n), best first, the first `counts` (batch,).

    The score of a row is the sum of base (batch, n) and Shapley values (batch, n, 5).
    """
    chosen = np.arange(rows.shape[1]) < counts[:, None]
    popular = np.repeat([source == "popular" for source in resolved.sources], counts)
    named = _causes(catalog, causes.rows[chosen], causes.shares[chosen])
    tracks = iter(_tracks(catalog, rows[chosen], base[chosen], values[chosen], named, popular, chosen.nonzero()[1] + 1))
    timestamp = _now()
    return [
        RecommendResponse(list(islice(tracks, count)), source, unknown, timestamp)
        for count, source, unknown in zip(counts.tolist(), resolved.sources, resolved.unknown_ids, strict=True)
    ]


def _causes(catalog: Catalog, rows: Rows, shares: Floats) -> list[list[Cause]]:
    """Return the causes of each recommendation, from their rows and shares (n, m)."""
    heard = np.unique(rows[rows != ABSENT])
    labels: dict[int, tuple[str, str, str]] = dict(zip(heard.tolist(), catalog.labels(heard), strict=True))
    digits = _rounded(shares).tolist()
    return [
        [Cause(*labels[row], share) for row, share in zip(named, parts, strict=True) if row != ABSENT]
        for named, parts in zip(rows.tolist(), digits, strict=True)
    ]


def _tracks(
    catalog: Catalog,
    rows: Rows,
    base: Scores,
    values: Scores,
    causes: list[list[Cause]],
    popular: NDArray[np.bool_],
    positions: Rows,
) -> list[Recommendation]:
    """Return recommended tracks of rows (n,) with base (n,), values (n, 5) and causes, whether each was proposed as
    popular (n,), and its position in its list (n,)."""
    scores = np.rint((base + values.sum(axis=1)) * MICRO) / MICRO
    percents = explanation.percentages(values)
    order = (-percents).argsort(axis=1, kind="stable")
    writers = [POPULAR_REASONS if each else REASONS for each in popular.tolist()]
    families, moods = gather(catalog.families, rows), gather(catalog.moods, rows)
    columns = scores, percents, order, np.column_stack([base, values]), families, moods, positions
    lists = zip(*(each.tolist() for each in columns), causes, writers, strict=True)
    return [
        Recommendation(
            *label,
            score,
            writer.reason(shares, ranked),
            dict(zip(CONTRIBUTIONS, numbers, strict=True)),
            named,
            catalog.genre_names(bits),
            MOODS[mood],
            position,
        )
        for label, (score, shares, ranked, numbers, bits, mood, position, named, writer) in zip(
            catalog.labels(rows), lists, strict=True
        )
    ]


def _rounded(shares: Floats) -> Scores:
    return np.rint(shares.astype(np.float64) * 10**DIGITS) / 10**DIGITS


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
