"""Mutations of the golden cases."""

import json
from typing import Any

import msgspec
import numpy as np

from musix_runtime.bundle.manifest import GOLDEN
from tests.fuzz import documents
from tests.fuzz.draft import Draft

Rng = np.random.Generator
FEW = 8  # cases of each kind that are kept: as many as are asked, and some


def _load(draft: Draft) -> dict[str, Any]:
    cases = msgspec.json.decode(draft[GOLDEN])
    return {"tolerance": cases["tolerance"], **{kind: cases[kind][:FEW] for kind in ("classify", "recommend")}}


def _save(draft: Draft, cases: object) -> None:
    draft[GOLDEN] = json.dumps(cases).encode()


def values(draft: Draft, rng: Rng) -> str:
    """Any value of the first cases or the tolerance."""
    cases = _load(draft)
    if rng.random() < 0.3:
        what = documents.mutate(cases, rng)
    else:
        kind = str(rng.choice(["classify", "recommend"]))
        what = f"{kind}{documents.mutate(cases[kind][:4], rng)}"
    _save(draft, cases)
    return f"cases{what}"


def number(draft: Draft, rng: Rng) -> str:
    """None, few or thousands of cases."""
    cases, kind, size = _load(draft), str(rng.choice(["classify", "recommend"])), int(rng.choice([0, 1, 3, 5_000]))
    cases[kind] = (cases[kind] * 1000)[:size]
    _save(draft, cases)
    return f"{size} cases of {kind}"


def tolerance(draft: Draft, rng: Rng) -> str:
    """A tolerance that nothing can miss, or nothing can meet, or that is no number."""
    cases = _load(draft)
    value = (1e308, 1e30, 1.0, -1.0, 0.0, "NaN", "Infinity", "1e999", "-1e999", None, "x")[int(rng.integers(11))]
    every = rng.random() < 0.5
    for part in list(cases["tolerance"]):
        if every or rng.random() < 0.3:
            cases["tolerance"][part] = f"@{value}@" if isinstance(value, str) else value
    draft[GOLDEN] = json.dumps(cases).replace('"@', "").replace('@"', "").encode()
    return f"tolerance {value}"


def requests(draft: Draft, rng: Rng) -> str:
    """Requests that no client could send, or that ask for much."""
    cases = _load(draft)
    asked, told = cases["recommend"][0]["request"], cases["classify"][0]["request"]
    changes: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        (asked, {"userId": "x" * 1000}), (asked, {"userId": ""}), (asked, {"limit": 0}), (asked, {"limit": 10**9}),
        (asked, {"excludeIds": ["x" * 100_000] * 5}), (asked, {"excludeIds": [str(i) for i in range(10_001)]}),
        (asked, {"excludeIds": [str(i) for i in range(10_000)]}), (asked, {"history": ["\ud800", "\0", ""]}),
        (asked, {"history": ["nothing"] * 10_000}), (asked, {"context": {"hour": 24}}), (asked, {"timeRange": "never"}),
        (asked, {"currentTrackId": "nothing"}), (told, {"trackId": None, "audioFeatures": None}),
        (told, {"trackId": "nothing", "audioFeatures": None}), (told, {"artists": ["x" * 1000] * 100}),
        (told, {"artists": ["&#" + "9" * 900 + ";"]}), (told, {"name": "\U0010ffff" * 1000}), (told, {"artists": []}),
        (told, {"artists": ["\ufdfa" * 1000] * 100}), (told, {"popularity": 1e308}), (told, {"durationMs": 2**63}),
    )  # fmt: skip
    choice = int(rng.integers(len(changes)))
    place, change = changes[choice]
    place |= change
    _save(draft, cases)
    return f"request {choice}: {str(change)[:50]}"


def expected(draft: Draft, rng: Rng) -> str:
    """Expected answers without content: no genres, no moods, other moods, no contributions, no list."""
    cases = _load(draft)
    told, asked = cases["classify"][0]["expected"], cases["recommend"][0]["expected"]
    changes: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        (told, {"genres": []}), (told["mood"], {"probabilities": {}}), (told["mood"], {"probabilities": {"x": 1.0}}),
        (asked, {"recommendations": []}), (asked["recommendations"][0], {"contributions": {}}),
        (asked["recommendations"][0], {"id": ""}), (asked["recommendations"][0], {"score": 1e308}),
    )  # fmt: skip
    choice = int(rng.integers(len(changes)))
    place, change = changes[choice]
    place |= change
    _save(draft, cases)
    return f"expected: {change}"


def text(draft: Draft, rng: Rng) -> str:
    """The file's own bytes: deep nesting, no UTF-8, a huge number or string, cut, empty."""
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
