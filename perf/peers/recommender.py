"""Recommender: the answers with numpy and flat FAISS, and factors and dicts in memory, as is usual.

The same semantics as the runtime's engine: candidates, components, blend, greedy selection, exact contributions.
"""

import html
import math
import pickle
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any, Protocol

import faiss
import joblib
import numpy as np
from numpy.typing import NDArray

from perf.peers import schema

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

COMPONENTS = ("collab", "content", "preference", "freshness", "diversity")
WORDS = ("collaborative", "content similarity", "listener preference", "freshness", "diversity")
FINE, STEPS = 2048, 10  # of vectors and diversity, which are rounded so that all hosts give the same answers
COALITIONS = ((np.arange(32)[:, None] >> np.arange(5)) & 1).astype(np.float32)


class Models(Protocol):
    """The three models, in any library."""

    def genre(self, inputs: Floats, artist: Floats, case: Floats) -> Floats:
        """Return the confidence of each family. Shape (n, families).

        `inputs` (n, 15), `artist` (n, width), `case` (n, 1): 1 when an artist is known, else 0.
        """

    def mood(self, audio: Floats) -> Floats:
        """Return the probability of each mood. `audio` (n, 12). Shape (n, 5)."""

    def score(self, components: Floats, context: Floats) -> Floats:
        """Return scores in 0..1. `components` (n, 5), `context` (2,): tracks heard, hour or NaN. Shape (n,)."""


class UnknownTrackError(LookupError):
    """A track has no features and is not in the catalogue."""


def _shapley() -> NDArray[np.float64]:
    """Return the weight of each coalition in the Shapley value of each component. Shape (5, 32)."""
    weights = np.zeros((5, 32))
    for order in permutations(range(5)):
        members = 0
        for component in order:
            weights[component, members] -= 1 / math.factorial(5)
            members |= 1 << component
            weights[component, members] += 1 / math.factorial(5)
    return weights


SHAPLEY = _shapley()


def artist_key(name: str) -> str:
    """Return a name without case, accents, punctuation and a leading "the"."""
    bare = re.sub("[\u0300-\u036f]+", "", unicodedata.normalize("NFKD", html.unescape(name)))
    words = unicodedata.normalize("NFC", bare).lower().replace("&", " and ")
    return re.sub(r"[\W_]+", " ", words).strip().removeprefix("the ")


class Recommender:
    """The recommender, with all data in memory."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.models = models
        self.names: dict[str, Any] = pickle.loads((folder / "names.pickle").read_bytes())
        self.tracks: dict[str, Any] = joblib.load(folder / "tracks.joblib")
        self.listeners: dict[str, Any] = joblib.load(folder / "listeners.joblib")
        self.artist_factors: Floats = joblib.load(folder / "artists.joblib")
        self.index = faiss.read_index(str(folder / "content.faiss"))
        self.blend = np.array([self.tracks["blend"][name] for name in COMPONENTS], np.float32)

    def classify(self, questions: Sequence[schema.Classify]) -> list[dict[str, Any]]:
        """Return genre and mood of each track, in order. Raises UnknownTrackError."""
        inputs, artists = self._inputs(questions)
        confidences = self.models.genre(inputs, *self._artist(artists))
        moods = self.models.mood(np.ascontiguousarray(inputs[:, :12]))
        top = np.argsort(-confidences.round(4), axis=1, kind="stable")[:, :5]
        labels, names, timestamp = self.tracks["labels"], self.tracks["mood_names"], _now()
        return [
            {
                "genres": [{"name": labels[i], "confidence": round(float(confidence[i]), 4)} for i in best],
                "mood": {
                    "primary": names[int(mood.argmax())],
                    "probabilities": {name: round(float(p), 4) for name, p in zip(names, mood, strict=True)},
                },
                "timestamp": timestamp,
            }
            for confidence, mood, best in zip(confidences, moods, top, strict=True)
        ]

    def recommend(self, question: schema.Recommend) -> dict[str, Any]:
        """Return the best tracks with reasons."""
        factors, heard, taste, kind = self._listener(question)
        current = self._row(question.current_track_id) if question.current_track_id else None
        query = self._query(question, taste, current)
        scores = None if factors is None else self.listeners["track_factors"] @ np.append(factors[:-1], np.float32(1))
        excluded = set(self._rows([*question.exclude_ids, *(question.history or [])])) | set(heard.tolist())
        if current is not None:
            excluded.add(current)
        artists = self._artists(taste, current)
        rows = self._candidates(scores, query, artists, np.fromiter(excluded, np.int64), question.limit)
        vectors = self._vectors(rows)
        components = self._components(factors, scores, query, taste, current, artists, rows, vectors)
        size = max(self.tracks["pool"], question.limit)
        names = self.tracks["artists"]["track_artists"][rows]
        most = 10 if sum(1 for _, _, heard in artists.values() if heard) == 1 else 3
        order = np.argsort(-(components @ self.blend).round(6), kind="stable")
        short = np.sort(_limited(order, names, most * math.ceil(size / 10))[:size])
        hour = math.nan if question.context.hour is None else question.context.hour
        context = np.array([len(heard), hour], np.float32)
        picks, components = self._choose(components[short], vectors[short], names[short], most, context, question.limit)
        source = _source(kind, factors is not None, query is not None)
        result = self._explained(rows[short][picks], components, context, source)
        return {"recommendations": result, "source": source, "generatedAt": _now()}

    def _row(self, track_id: str) -> int | None:
        row: int | None = self.names["row_of_track"].get(track_id.removeprefix("spotify:track:"))
        return row

    def _rows(self, track_ids: Sequence[str]) -> list[int]:
        return [row for row in map(self._row, track_ids) if row is not None]

    def _vectors(self, rows: Rows) -> Floats:
        return np.asarray(self.index.reconstruct_batch(rows), np.float32)

    def _inputs(self, questions: Sequence[schema.Classify]) -> tuple[Floats, list[list[str]]]:
        inputs = np.full((len(questions), len(self.tracks["input_names"])), np.nan, np.float32)
        artists = []
        for i, question in enumerate(questions):
            row = self._row(question.track_id) if question.track_id else None
            if row is not None:
                inputs[i] = self.tracks["inputs"][row]
            elif question.audio_features is None:
                raise UnknownTrackError(question.track_id or "neither trackId nor audioFeatures")
            if question.audio_features is not None:
                inputs[i, :12] = list(question.audio_features.__dict__.values())
            for column, name in enumerate(self.tracks["input_names"][12:], 12):
                value = getattr(question, name)
                if value is not None:
                    inputs[i, column] = value
            known = [] if row is None else self.names["artists"][row].split(";")
            artists.append(known if question.artists is None else question.artists)
        return inputs, artists

    def _artist(self, artists: list[list[str]]) -> tuple[Floats, Floats]:
        """Return the mean factors of the known artists, with the prior of the first one in the last columns, or row 0
        without any; and whether there is one."""
        row_of, factors = self.names["row_of_artist"], self.artist_factors
        rows = [[row_of[key] for key in map(artist_key, names) if key in row_of] for names in artists]
        mean = np.stack([factors[item or [0]].mean(axis=0) for item in rows])
        families = len(self.tracks["labels"])
        mean[:, -families:] = factors[[(item or [0])[0] for item in rows], -families:]
        return mean, np.array([[bool(item)] for item in rows], np.float32)

    def _listener(self, question: schema.Recommend) -> tuple[Floats | None, Rows, Rows, str]:
        """Return factors, history, history in the time range, and the source."""
        data = self.listeners
        number = self.names["row_of_listener"].get(question.user_id)
        if number is not None:
            start, stop = data["history_offsets"][number : number + 2]
            heard = data["history_rows"][start:stop].astype(np.int64)
            counts = [*data["history_recent"][number].tolist(), len(heard)]
            first = ("short_term", "medium_term", "long_term").index(question.time_range)
            count = next((item for item in counts[first:] if item), 0)
            return data["listener_factors"][number], heard, heard[:count], "hybrid"
        heard = np.array(self._rows(question.history or []), np.int64)
        places = data["place_of"][heard]
        places = places[places >= 0]
        if not len(places):
            return None, heard, heard, "history" if len(heard) else "popular"
        mean = np.append(data["track_factors"][places].sum(axis=0) / np.float32(len(places) + 2), np.float32(1))
        return mean @ data["fold_in"], heard, heard, "history"

    def _query(self, question: schema.Recommend, taste: Rows, current: int | None) -> Floats | None:
        if current is None and (question.current_track_id is not None or not len(taste)):
            return None
        query = _unit(self._vectors(taste).sum(axis=0)) if len(taste) else np.zeros(self.index.d, np.float32)
        return query if current is None else _unit(query + self._vectors(np.array([current]))[0])

    def _artists(self, taste: Rows, current: int | None) -> dict[int, tuple[float, float, int]]:
        """Return the artists of the profile and those like them: own and similar affinity, and number of tracks."""
        data = self.tracks["artists"]
        profile = [*taste.tolist(), *([] if current is None else [current] * 5)]
        counts = Counter(data["track_artists"][profile].tolist())
        similar: dict[int, float] = {}
        for artist, count in sorted(counts.items()):
            pairs = zip(data["similar"][artist].tolist(), data["similarities"][artist].tolist(), strict=True)
            for other, weight in pairs:
                similar[other] = similar.get(other, 0) + count / len(profile) * weight
        return {
            artist: (
                math.sqrt(counts[artist] / max(len(profile), 1)),
                min(similar.get(artist, 0), 1),
                counts[artist],
            )
            for artist in sorted({*counts, *similar})
        }

    def _of_artists(self, artists: dict[int, tuple[float, float, int]], count: int) -> Rows:
        """Return about `count` popular tracks of the artists, by their affinity."""
        data, rows = self.tracks["artists"], []
        weights = [1 - (1 - own) * (1 - 0.3 * similar) for own, similar, _ in artists.values()]
        total = max(sum(weights), 1e-12)
        for (artist, (_, _, heard)), weight in zip(artists.items(), weights, strict=True):
            size = round(count * weight / total)
            if size:
                start, stop = data["offsets"][artist : artist + 2].tolist()
                rows += data["rows"][start : min(stop, start + min(size, 60) + min(heard, 60))].tolist()
        return np.array(rows, np.int64)

    def _candidates(
        self,
        scores: Floats | None,
        query: Floats | None,
        artists: dict[int, tuple[float, float, int]],
        excluded: Rows,
        limit: int,
    ) -> Rows:
        count = max(self.tracks["candidates"], limit)
        by_artist = self._of_artists(artists, 2 * count)
        wanted = count + len(excluded)
        proposals = []
        if scores is not None:
            places = np.argpartition(scores, -min(wanted, len(scores)))[-wanted:]
            proposals.append(self.listeners["track_rows"][places[np.argsort(-scores[places], kind="stable")]])
        if query is not None:
            faiss.omp_set_num_threads(1)  # of this thread, for its one query
            proposals.append(self.index.search(query[None], min(wanted, self.index.ntotal))[1][0])
        if not proposals:
            proposals, count = [self.tracks["popular"]], 2 * count
        lists = [rows[~np.isin(rows, excluded)][:count] for rows in proposals]
        result = np.unique(np.concatenate([*lists, np.setdiff1d(by_artist, excluded)]))
        if len(result) < limit:
            free = np.setdiff1d(np.arange(len(self.names["ids"])), np.concatenate([result, excluded]))
            more = free[np.argsort(-self.tracks["popularity"][free], kind="stable")[: limit - len(result)]]
            result = np.union1d(result, more)
        return result.astype(np.int64)

    def _components(
        self,
        factors: Floats | None,
        scores: Floats | None,
        query: Floats | None,
        taste: Rows,
        current: int | None,
        artists: dict[int, tuple[float, float, int]],
        rows: Rows,
        vectors: Floats,
    ) -> Floats:
        components = np.zeros((len(rows), len(COMPONENTS)), np.float32)
        if factors is not None and scores is not None:
            average = self.listeners["track_mean"] @ np.append(factors[:-1], np.float32(1))
            places = self.listeners["place_of"][rows]
            match = (scores[places] - average) / max(scores.max() - average, 1e-6)
            components[:, 0] = self.tracks["factors"] * np.where(places >= 0, np.clip(match, 0, 1), 0)
        elif query is None:
            components[:, 0] = self.tracks["popularity"][rows]
        if query is not None:
            components[:, 1] = np.clip(vectors @ query, 0, 1)
        data, family = self.tracks["artists"], np.zeros(len(rows))
        if len(taste) or current is not None:
            places = self.listeners["place_of"][rows]
            alike = self.listeners["tastes"][places] @ self._taste(taste, current)
            components[:, 0] += (1 - self.tracks["factors"]) * np.where(places >= 0, np.clip(alike, 0, 1), 0)
        if len(taste):
            counts = self.tracks["families"][taste].sum(axis=0)
            family[:] = (self.tracks["families"][rows] * (counts / max(counts.max(), 1))).max(axis=1)
        known = [artists.get(artist, (0, 0, 0))[:2] for artist in data["track_artists"][rows].tolist()]
        own, similar = np.array(known).T / np.sqrt(1 + data["ranks"][rows])
        components[:, 2] = 1 - (1 - own) * (1 - 0.3 * similar) * (1 - 0.2 * family)
        components[:, 3] = self.tracks["freshness"][rows]
        components[:, 4] = 1
        return components

    def _taste(self, taste: Rows, current: int | None) -> Floats:
        """Return the sum of the embeddings of the profile; with a current track, 0.7 of it and 0.3 of the track's."""

        def total(rows: Rows) -> Floats:
            places = self.listeners["place_of"][rows]
            return np.asarray(self.listeners["tastes"][places[places >= 0]].sum(axis=0), np.float32)

        return total(taste) if current is None else 0.7 * total(taste) + 0.3 * total(np.array([current]))

    def _choose(
        self, components: Floats, vectors: Floats, artists: Rows, most: int, context: Floats, limit: int
    ) -> tuple[Rows, Floats]:
        """Select candidates greedily: the best one given the selected ones, `most` of one artist in each ten."""
        left = np.arange(len(components))
        whole = np.rint(vectors * FINE)
        diversity = np.rint((1 - whole @ whole.T / FINE**2) * STEPS).clip(0, STEPS) / STEPS
        picks, scores, taken = [], [], Counter[int]()
        for i in range(10 * math.ceil(limit / 10)):
            free = [taken[artist] < most * (i // 10 + 1) for artist in artists[left].tolist()]
            if not any(free):
                break
            result = np.where(free, self.models.score(components[left], context).round(6), -1)
            best = int(result.argmax())
            taken[int(artists[left[best]])] += 1
            picks.append(left[best])
            scores.append(result[best])
            left = np.delete(left, best)
            components[left, 4] = np.minimum(components[left, 4], diversity[picks[-1], left])
        pages = np.arange(len(picks)) // 10
        order = np.array(picks, np.int64)[np.lexsort((picks, -np.array(scores), pages))][:limit]
        return order, components[order]

    def _explained(self, rows: Rows, components: Floats, context: Floats, source: str) -> list[dict[str, Any]]:
        coalitions = (components[:, None, :] * COALITIONS).reshape(-1, len(COMPONENTS))
        scores = self.models.score(coalitions, context).astype(np.float64).reshape(len(rows), -1)
        values = scores @ SHAPLEY.T
        tracks, names = self.tracks, self.names
        return [
            {
                "id": names["ids"][row],
                "name": names["names"][row],
                "artist": names["artists"][row].replace(";", ", "),
                "score": round(float(score[-1]), 6),
                "reason": reason(value, source),
                "contributions": {"base": round(float(score[0]), 6)}
                | {name: round(float(item), 6) for name, item in zip(COMPONENTS, value, strict=True)},
                "genre": [tracks["labels"][i] for i in np.flatnonzero(tracks["families"][row])],
                "mood": tracks["mood_names"][tracks["moods"][row]],
            }
            for row, score, value in zip(rows.tolist(), scores, values, strict=True)
        ]


def _limited(order: Rows, artists: Rows, most: int) -> Rows:
    """Return the positions in `order` without those of an artist after its first `most`."""
    taken = Counter[int]()
    kept = []
    for position in order.tolist():
        taken[int(artists[position])] += 1
        if taken[int(artists[position])] <= most:
            kept.append(position)
    return np.array(kept, np.int64)


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def reason(values: NDArray[np.float64], source: str) -> str:
    """Return the share of each component in the positive contributions, in percent, which sum to 100."""
    total = values[values > 0].sum()
    if not total:
        return "no component speaks for this track"
    exact = np.where(values > 0, 100 * values / total, 0)
    percents = np.floor(exact)
    percents[np.argsort(percents - exact, kind="stable")[: round(100 - percents.sum())]] += 1
    words = ("popularity", *WORDS[1:]) if source == "popular" else WORDS
    return " + ".join(f"{percents[i]:.0f}% {words[i]}" for i in np.argsort(-percents, kind="stable") if percents[i])


def _source(kind: str, collab: bool, content: bool) -> str:
    if not collab:
        return "content" if content else "popular"
    return kind if content else "collab"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
