"""Mutations of the golden cases."""

import json
from typing import Any

import msgspec
import numpy as np

from musix_runtime.bundle.manifest import GOLDEN
from tests.fuzz import documents
from tests.fuzz.draft import Draft

Rng = np.random.Generator
MAX_CASES = 8  # cases of each kind that are kept: more than are replayed at open


def _load(draft: Draft) -> dict[str, Any]:
    cases = msgspec.json.decode(draft[GOLDEN])
    return {"tolerance": cases["tolerance"], **{kind: cases[kind][:MAX_CASES] for kind in ("classify", "recommend")}}


def _save(draft: Draft, cases: object) -> None:
    draft[GOLDEN] = json.dumps(cases).encode()


def values(draft: Draft, rng: Rng) -> str:
    """Change any value of the first cases or of the tolerance."""
    cases = _load(draft)
    if rng.random() < 0.3:
        what = documents.mutate(cases, rng)
    else:
        kind = str(rng.choice(["classify", "recommend"]))
        what = f"{kind}{documents.mutate(cases[kind][:4], rng)}"
    _save(draft, cases)
    return f"cases{what}"


def number(draft: Draft, rng: Rng) -> str:
    """Change the number of cases: none, some or thousands."""
    cases, kind, size = _load(draft), str(rng.choice(["classify", "recommend"])), int(rng.choice([0, 1, 3, 5_000]))
    cases[kind] = (cases[kind] * 1000)[:size]
    _save(draft, cases)
    return f"{size} cases of {kind}"


def tolerance(draft: Draft, rng: Rng) -> str:
    """Set a tolerance that is too large or too small, or is not a number."""
    cases = _load(draft)
    value = (1e308, 1e30, 1.0, -1.0, 0.0, "NaN", "Infinity", "1e999", "-1e999", None, "x")[int(rng.integers(11))]
    every = rng.random() < 0.5
    for part in list(cases["tolerance"]):
        if every or rng.random() < 0.3:
            cases["tolerance"][part] = f"@{value}@" if isinstance(value, str) else value
    draft[GOLDEN] = json.dumps(cases).replace('"@', "").replace('@"', "").encode()
    return f"tolerance {value}"


RECOMMEND_CHANGES: tuple[dict[str, Any], ...] = (
    {"userId": "x" * 1000}, {"userId": ""}, {"limit": 0}, {"limit": 10**9}, {"excludeIds": ["x" * 100_000] * 5},
    {"excludeIds": [str(i) for i in range(10_001)]}, {"excludeIds": [str(i) for i in range(10_000)]},
    {"history": ["\ud800", "\0", ""]}, {"history": ["nothing"] * 10_000}, {"context": {"hour": 24}},
    {"timeRange": "never"}, {"currentTrackId": "nothing"}, {"filters": {"genres": ["nothing"]}}, {"filters": {}},
    {"filters": {"releasedAfter": "2023-02-29"}}, {"filters": {"releasedAfter": "9999-12-31"}},
)  # fmt: skip
CLASSIFY_CHANGES: tuple[dict[str, Any], ...] = (
    {"trackId": None, "audioFeatures": None}, {"trackId": "nothing", "audioFeatures": None},
    {"artists": ["x" * 1000] * 100}, {"artists": ["&#" + "9" * 900 + ";"]}, {"name": "\U0010ffff" * 1000},
    {"artists": []}, {"artists": ["\ufdfa" * 1000] * 100}, {"popularity": 1e308}, {"durationMs": 2**63},
)  # fmt: skip


def requests(draft: Draft, rng: Rng) -> str:
    """Set requests that are invalid, or that need much time or memory."""
    cases = _load(draft)
    changes = [("recommend", fields) for fields in RECOMMEND_CHANGES]
    changes += [("classify", fields) for fields in CLASSIFY_CHANGES]
    choice = int(rng.integers(len(changes)))
    kind, change = changes[choice]
    cases[kind][0]["request"] |= change
    _save(draft, cases)
    return f"request {choice}: {str(change)[:50]}"


def expected(draft: Draft, rng: Rng) -> str:
    """Remove parts of the expected answers: genres, moods, contributions, the list."""
    cases = _load(draft)
    classify, recommend = cases["classify"][0]["expected"], cases["recommend"][0]["expected"]
    changes: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        (classify, {"genres": []}), (classify["mood"], {"probabilities": {}}),
        (classify["mood"], {"probabilities": {"x": 1.0}}),
        (recommend, {"recommendations": []}), (recommend["recommendations"][0], {"contributions": {}}),
        (recommend["recommendations"][0], {"id": ""}), (recommend["recommendations"][0], {"score": 1e308}),
    )  # fmt: skip
    choice = int(rng.integers(len(changes)))
    place, change = changes[choice]
    place |= change
    _save(draft, cases)
    return f"expected: {change}"


def text(draft: Draft, rng: Rng) -> str:
    """Change the bytes of the file: deep nesting, invalid UTF-8, a huge number or string, truncated, empty."""
    content = draft[GOLDEN]
    choices = (
        b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"", b"null", content[: int(rng.integers(len(content)))],
        content.replace(b'"classify":[', b'"classify":[' + b"[" * 1_000_000, 1), content + b" " * 2_000_000,
        content.replace(b'"genre":', b'"genre":' + b"9" * 100_000, 1), content.replace(b"e", b"\\ud800", 1),
        b'{"tolerance":{' + b'"a":1,' * 300_000 + b'"a":1},"classify":[],"recommend":[]}',
        b'{"tolerance":{},"classify":[' + b"{}," * 1_000_000 + b'{}],"recommend":[]}',
    )  # fmt: skip
    choice = int(rng.integers(len(choices)))
    draft[GOLDEN] = choices[choice]
    return f"cases: text {choice}"


MUTATIONS = (values, values, number, tolerance, requests, expected, text)
