"""Ranker: a small network that learns, from feedback, how five components and the context make a track wanted.

The components come from the runtime's own retriever, so that training and serving cannot drift apart.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from musix_runtime.errors import TableError
from musix_runtime.models.arrays import Floats, Rows, Scores
from musix_runtime.models.candidate_features import CandidateFeatures, prefilter_by_blend
from musix_runtime.models.ranker import COMPONENTS, DIVERSITY, Ranker
from musix_runtime.models.retrieval import ANONYMOUS, Candidates, Retriever, User
from musix_runtime.models.selection import LEVELS, pairwise_diversity
from musix_trainer import progress, recipe
from musix_trainer.data import split
from musix_trainer.data.impressions import Impressions
from musix_trainer.data.interactions import Interactions
from musix_trainer.evaluation import metrics
from musix_trainer.models import networks
from musix_trainer.models.collab import CollabModel, relevant_rows
from musix_trainer.models.retriever import make_retriever
from musix_trainer.part import Part, Training
from musix_trainer.quality import RANKING, keys

LIST_SIZE = 10  # impressions that are seen together, and make each other more or less diverse
MIN_USERS = 20  # listeners, so that training and validation both get some
SIMD_WIDTH = 16  # numbers that a processor computes at once, at most
ACTIVITY_SCALE = math.log1p(100)  # scale of the listener's activity: tracks heard, in logarithms


class RankerNetwork(nn.Module):
    """From components (lists, n, 5) and raw context (lists, n, 2) or (lists, 2): tracks heard, hour or NaN; to a logit
    (lists, n, 1)."""

    def __init__(self, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.layers = networks.perceptron(len(COMPONENTS) + 3, hidden, 1)

    def forward(self, components: Tensor, context: Tensor) -> Tensor:
        return self.rows(components, context).reshape(*components.shape[:-1], 1)

    def rows(self, components: Tensor, context: Tensor) -> Tensor:
        """The logits of all candidates, list after list. Shape (lists * n, 1)."""
        heard, hour = context[..., :1], context[..., 1:]
        # Each number fills a processor's vector by itself: beside others it would be taken in a vector or alone, by the
        # size of the batch, and end in other bits.
        activity = torch.log1p(heard * torch.ones(SIMD_WIDTH))[..., :1] / ACTIVITY_SCALE
        phase = torch.tensor([0.0, math.pi / 2]).repeat_interleave(SIMD_WIDTH)  # of sine and cosine
        clock = torch.sin(hour * torch.full((2 * SIMD_WIDTH,), 2 * math.pi / 24) + phase)[..., ::SIMD_WIDTH]
        clock = torch.where(torch.isnan(hour), 0.0, clock)
        # The context meets the components only here: where one row of it serves all candidates, it is computed once.
        first, *others = self.layers
        weights = cast(nn.Linear, first).weight
        situation = functional.linear(
            torch.cat([activity, clock], dim=-1), weights[:, len(COMPONENTS) :], cast(nn.Linear, first).bias
        )
        if context.ndim < components.ndim:
            situation = situation[:, None]
        hidden = components @ weights[:, : len(COMPONENTS)].T + situation
        rows = hidden.reshape(-1, weights.shape[0])  # for which ONNX Runtime has one product in place of many
        for layer in others:
            rows = layer(rows)
        return rows


@dataclass(frozen=True)
class RankerModel:
    """The trained network, in eval mode."""

    network: RankerNetwork

    def run(self, outputs: None, feed: dict[str, Floats]) -> list[Floats]:
        """Answer like the ONNX session of the exported graph, by PyTorch."""
        components, context = (torch.from_numpy(np.ascontiguousarray(feed[name])) for name in ("components", "context"))
        with torch.no_grad():
            return [np.asarray(torch.sigmoid(self.network.rows(components, context)).numpy())]

    def runtime(self) -> Ranker:
        """The part that answers, with PyTorch in place of ONNX Runtime."""
        return Ranker(self)

    def save(self, path: Path) -> None:
        """Write the model into a new folder."""
        path.mkdir(parents=True)
        content = io.BytesIO()  # PyTorch hides what is wrong with a disk
        torch.save(self.network.state_dict(), content)
        (path / "network.pt").write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: Path, settings: recipe.Ranker) -> "RankerModel":
        """Read a model that `save` wrote."""
        network = RankerNetwork(settings.hidden)
        network.load_state_dict(torch.load(path / "network.pt", weights_only=True))
        return cls(network.eval())


@dataclass(frozen=True)
class TrainingExamples:
    """What listeners were shown: who (n,), in which list (n,), components with context (n, 7), and whether they took it
    (n,)."""

    listener: NDArray[np.int64]
    list: NDArray[np.int64]
    inputs: Floats
    taken: NDArray[np.bool_]


def train(
    retriever: Retriever,
    collab: CollabModel,
    given: Impressions | None,
    held_out: Interactions,
    settings: recipe.Ranker,
    seed: int,
) -> tuple[RankerModel, dict[str, Any]]:
    """Learn from the given feedback, else from the validation part of listening against the runtime's candidates."""
    if given:
        shown = _from_feedback(retriever, collab, given, held_out.names, seed)
    else:
        shown = derive_impressions(retriever, collab, held_out, settings, seed)
    _check_both(shown, len(np.unique(shown.listener)))
    listeners, number = np.unique(shown.listener, return_inverse=True)
    parts = split.assign(len(listeners), settings.validation, 0, seed)[number]
    validation = parts == split.VALIDATION
    torch.manual_seed(seed)
    network = RankerNetwork(settings.hidden)
    best = networks.fit(
        network,
        _loss,
        _lists(shown, parts == split.TRAIN),
        _lists(shown, validation),
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        patience=settings.patience,
        seed=seed,
        label="ranker: epochs",
    )
    if not np.isfinite(shown.inputs[:, -1]).any():
        with torch.no_grad():
            cast(nn.Linear, network.layers[0]).weight[:, -2:] = (
                0  # no hour was ever seen: the clock keeps no random say
            )
    model = RankerModel(network)
    card: dict[str, Any] = {
        "impressions_source": "table" if given else "derived",
        "impressions": len(shown.taken),
        "positives": int(shown.taken.sum()),
        "best_epoch": best,
        "validation_auc": _aucs(model, shown.inputs[validation], shown.taken[validation], settings),
    }
    return model, card


def _lists(shown: TrainingExamples, chosen: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
    """Components (lists, n, 5), context (lists, n, 2) and whether taken (lists, n, 1) of the chosen impressions, lists
    filled up to the longest one with rows whose last is NaN."""
    _, number, sizes = np.unique(shown.list[chosen], return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    inputs = np.zeros((len(sizes), sizes.max(initial=0), shown.inputs.shape[1]), np.float32)
    taken = np.full((*inputs.shape[:2], 1), np.nan, np.float32)
    inputs[number[order], place] = shown.inputs[chosen][order]
    taken[number[order], place, 0] = shown.taken[chosen][order]
    components, context = _split_inputs(inputs)
    return torch.from_numpy(components), torch.from_numpy(context), torch.from_numpy(taken)


def _loss(logits: Tensor, taken: Tensor) -> Tensor:
    """Whether each is taken, and which of its list: cross-entropy of the probabilities, and of their shares in the
    list, which orders it and has the same optimum (Bai et al., Regression compatible listwise objectives, 2023)."""
    there = ~taken.isnan()
    single = functional.binary_cross_entropy_with_logits(logits[there], taken[there])
    share = torch.where(there, taken, 0.0)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
    ordered = functional.logsigmoid(logits).masked_fill(~there, -torch.inf).log_softmax(dim=1).masked_fill(~there, 0)
    return single - (share * ordered).sum() / (share.sum().clamp(min=1))


def _check_both(shown: TrainingExamples, listeners: int) -> None:
    taken = int(shown.taken.sum())
    if listeners < MIN_USERS or not 0 < taken < len(shown.taken):
        raise TableError(
            f"ranker: expected impressions of at least {MIN_USERS} listeners, some taken and some not, to learn from,"
            f" found {len(shown.taken):,} of {listeners:,} listeners, {taken:,} of them taken"
        )


def _from_feedback(
    retriever: Retriever, collab: CollabModel, given: Impressions, names: list[str], seed: int
) -> TrainingExamples:
    """What was shown, with the components that it would have had in each of two ways of meeting the listener."""
    rng = np.random.default_rng(seed)
    numbers = retriever.collab.listeners.find(names)[given.listener]
    pieces = []
    for number, where in _groups(numbers):
        rows, taken, hours = given.row[where], given.taken[where], given.hour[where]
        for user, query in _user_contexts(retriever, collab, number, rng):
            pieces.append(_impression_features(retriever, user, query, number, rows, taken, hours))
            hours = np.full(len(rows), np.nan, np.float32)  # the second time as by a caller who does not tell the hour
    return _concatenate(pieces)


def derive_impressions(
    retriever: Retriever, collab: CollabModel, held_out: Interactions, settings: recipe.Ranker, seed: int
) -> TrainingExamples:
    """A listener is shown the retriever's candidates that turned out to be heard, among others that did not."""
    rng = np.random.default_rng(seed)
    relevant = relevant_rows(collab, held_out)
    pieces = []
    for _, number in zip(progress.steps("ranker: listeners", len(relevant)), sorted(relevant), strict=True):
        for user, query in _user_contexts(retriever, collab, number, rng):
            rows = candidates(retriever, user, query, settings.candidates)
            taken = np.isin(rows, list(relevant[number]))
            others = rng.permutation(np.flatnonzero(~taken))[: settings.negatives * int(taken.sum())]
            order = rng.permutation(np.concatenate([np.flatnonzero(taken), others]))
            if len(order):
                hours = np.full(len(order), np.nan, np.float32)
                pieces.append(_impression_features(retriever, user, query, number, rows[order], taken[order], hours))
    return _concatenate(pieces)


def _user_contexts(
    retriever: Retriever, collab: CollabModel, number: int, rng: np.random.Generator
) -> list[tuple[User, Floats | None]]:
    """Two ways in which a listener may be met: as known, and as one of the cold starts that the runtime has.

    So the network learns what each component is worth also when the others cannot be known.
    """
    met, profile = known(retriever, collab, number)
    playing = retriever.content.vectors(rng.choice(met.history, 1))[0]
    few = met.history[: rng.integers(1, 11)]
    folded = User(retriever.collab.fold_in(few), few, few)
    cold = [(met, playing), (folded, retriever.content.profile(few)), (ANONYMOUS, playing), (ANONYMOUS, None)]
    return [(met, profile), cold[rng.integers(len(cold))]]


def _impression_features(
    retriever: Retriever,
    user: User,
    query: Floats | None,
    number: int,
    rows: Rows,
    taken: NDArray[np.bool_],
    hours: NDArray[np.float32],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """One listener's impressions: number, components with context, taken; in lists of ten, in the given order.

    Diversity sees what stands above in the list.
    """
    features = features_of(retriever, user, query, rows)
    (components,) = features.components
    for start in range(0, len(rows), LIST_SIZE):
        seen = features.vectors[:, start : start + LIST_SIZE]
        above = np.tri(seen.shape[1], k=-1, dtype=bool)
        levels = np.where(above, pairwise_diversity(seen)[0], LEVELS).min(axis=1)
        components[start : start + LIST_SIZE, DIVERSITY] = levels / LEVELS
    heard = np.full(len(rows), len(user.history))
    return np.full(len(rows), number), np.column_stack([components, heard, hours]), taken


def candidates(retriever: Retriever, user: User, content: Floats | None, limit: int) -> Rows:
    """The candidates for a list of `limit` tracks that the user has not heard, near to a content vector (28,)."""
    found = retriever.retrieve(retriever.query(user, content, user.history, limit))
    return found.rows[found.valid]


def features_of(
    retriever: Retriever, user: User, content: Floats | None, rows: Rows, limit: int | None = None
) -> CandidateFeatures:
    """Features of a batch of one: of the rows (n,); with a `limit`, of those that the ranker sees for a list of so many
    tracks."""
    query = retriever.query(user, content, rows[:0], limit or 1)
    best = query.factors[:, 0] if user.factors is None else retriever.collab.scorer(user.factors).best
    features = retriever.features(query, Candidates(rows[None], np.ones((1, len(rows)), bool), best))
    if limit is None:
        return features
    weights = np.array([retriever.serving.blend[name] for name in COMPONENTS], np.float32)
    return prefilter_by_blend(features, weights, np.array([max(retriever.serving.pool, limit)]))


def _groups(numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each listener that has factors, with the places of its entries in order."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    for number, where in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
        if number >= 0:
            yield number, where


def known(retriever: Retriever, collab: CollabModel, number: int) -> tuple[User, Floats]:
    """A listener with factors, by number, and the query for content: the profile of all that it heard."""
    heard = retriever.collab.history(number)
    return User(collab.listener_factors[number], heard, heard), retriever.content.profile(heard)


def _concatenate(pieces: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]) -> TrainingExamples:
    if not pieces:
        nobody = np.empty(0, np.int64)
        return TrainingExamples(nobody, nobody, np.empty((0, len(COMPONENTS) + 2), np.float32), np.empty(0, bool))
    listener, inputs, taken = (np.concatenate(each) for each in zip(*pieces, strict=True))
    number = np.repeat(np.arange(len(pieces)), [len(each) for each, _, _ in pieces])
    return TrainingExamples(listener, number, inputs.astype(np.float32), taken)


def _split_inputs(inputs: Floats) -> tuple[Floats, Floats]:
    """The network's two inputs: components (..., 5) and context (..., 2)."""
    return inputs[..., : len(COMPONENTS)], inputs[..., len(COMPONENTS) :]


def _aucs(model: RankerModel, inputs: Floats, taken: NDArray[np.bool_], settings: recipe.Ranker) -> dict[str, float]:
    components, context = _split_inputs(inputs)
    blend = components @ np.array([settings.blend[name] for name in COMPONENTS])
    (scores,) = model.run(None, {"components": components[:, None], "context": context})
    found = {"network": scores[:, 0], "blend": blend} | dict(zip(COMPONENTS, components.T, strict=True))
    return {name: float(roc_auc_score(taken, values)) for name, values in found.items()}


def recommend(
    retriever: Retriever, collab: CollabModel, model: RankerModel, number: int, limit: int = 10
) -> tuple[Rows, dict[str, Scores]]:
    """A known listener's list, best first: rows, and the contribution of each component to each score."""
    user, query = known(retriever, collab, number)
    found = features_of(retriever, user, query, candidates(retriever, user, query, limit), limit)
    context = np.array([[len(user.history), np.nan]], np.float32)
    picks, components = model.runtime().select(found, context, np.array([limit]))
    _, values = model.runtime().explain(components, context)
    return found.rows[0, picks[0]], dict(zip(COMPONENTS, values[0].T, strict=True))


def measure(
    retriever: Retriever, collab: CollabModel, model: RankerModel, test: Interactions, limit: int = 10
) -> dict[str, Any]:
    """Whole lists, as recommend, against held-out listening: the hybrid beside each way of finding tracks alone."""
    relevant = relevant_rows(collab, test)
    ranker = model.runtime()
    popular = np.argsort(-retriever.popularity, kind="stable")
    found: dict[str, list[Rows]] = {
        name: [] for name in ("hybrid", "collab_alone", "content_alone", "popularity_alone")
    }
    for _, number in zip(progress.steps("hybrid: listeners", len(relevant)), sorted(relevant), strict=True):
        user, query = known(retriever, collab, number)
        rows = candidates(retriever, user, query, limit)
        (components,) = features_of(retriever, user, query, rows).components
        seen = features_of(retriever, user, query, rows, limit)
        context = np.array([[len(user.history), np.nan]], np.float32)
        picks, _ = ranker.select(seen, context, np.array([limit]))
        found["hybrid"].append(seen.rows[0, picks[0]])
        for name, column in (("collab_alone", 0), ("content_alone", 1)):
            found[name].append(rows[np.argsort(-components[:, column], kind="stable")[:limit]])
        found["popularity_alone"].append(popular[~np.isin(popular, user.history)][:limit])
    truth = [relevant[number] for number in sorted(relevant)]
    return {"users": len(truth)} | {name: metrics.ranking(rows, truth, limit) for name, rows in found.items()}


def _train_part(training: Training) -> tuple[RankerModel, dict[str, Any]]:
    """Train on the given impressions or the validation part, and measure the whole recommender on the test part."""
    models, settings = training.models, training.recipe.ranker
    retriever = make_retriever(models["collab"], models["content"], models["catalog"], settings)
    model, card = train(
        retriever, models["collab"], training.impressions, training.validation, settings, training.recipe.seed
    )
    return model, {"ranker": card, "hybrid": measure(retriever, models["collab"], model, training.test)}


QUALITY_KEYS = (
    keys("ranker", ("impressions", "positives", "best_epoch"))
    | keys("ranker.validation_auc", ("network", "blend", *COMPONENTS))
    | keys("hybrid", "users")
    | keys("hybrid", ("hybrid", "collab_alone", "content_alone", "popularity_alone"), RANKING)
)
PART = Part("ranker", _train_part, lambda path, recipe: RankerModel.load(path, recipe.ranker), QUALITY_KEYS)
