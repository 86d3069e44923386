"""Hostile request bodies, and their cost for a real server.

    python -m tests.flood.requests --bundle DIR [--repeat 3] [--only WORD]

prints for every attack the status, the size of the answer, the most that the server's memory grew, and the longest that
a well-behaved client waited meanwhile: the median of `--repeat` runs. It ends with 1 when a bound is broken.
"""

import argparse
import gzip
import json
import multiprocessing
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http.client import HTTPException, HTTPResponse
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from tests.system.servers import serving, worker_pid

MAX_WAIT_MS = 50.0
MAX_GROWTH_MB = 64.0
MAX_ANSWER_BYTES = 1_000_000
LIMIT = 2 * 2**20  # bytes; the default of MUSIX_MAX_BODY_BYTES
TIMEOUT_S = 60.0  # for one response
CLASSIFY, BATCH, RECOMMEND, SIMILAR, EVENTS, EXPOSURES = (
    f"/api/ml/{name}" for name in ("classify", "classify/batch", "recommend", "similar", "events", "exposures")
)
FEATURES = {
    "danceability": 0.5, "energy": 0.5, "key": 5, "loudness": -8.5, "mode": 1, "speechiness": 0.05,
    "acousticness": 0.1, "instrumentalness": 0, "liveness": 0.1, "valence": 0.5, "tempo": 120, "time_signature": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """A request as raw bytes, and the expected status of the response."""

    name: str
    request: bytes
    status: int


@dataclass(frozen=True)
class Cost:
    """The cost of one attack: status, body and latency of its response, the longest latency of another client at the
    same time, and the peak growth of the memory of the server."""

    status: int
    answer: bytes
    seconds: float
    wait_ms: float
    growth_mb: float

    @property
    def bounded(self) -> bool:
        """Whether the cost is within the limits."""
        short = len(self.answer) <= MAX_ANSWER_BYTES
        return self.wait_ms <= MAX_WAIT_MS and self.growth_mb <= MAX_GROWTH_MB and short


def http(path: str, body: bytes, **headers: str) -> bytes:
    """Return the raw bytes of a POST request."""
    fields = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def ask(url: str, request: bytes) -> tuple[int, bytes]:
    """Return status and body of the response to a request over a new connection; status 0 without a response."""
    try:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), TIMEOUT_S) as connection:
            connection.sendall(request)
            response = HTTPResponse(connection)
            response.begin()
            return response.status, response.read()
    except (OSError, HTTPException):
        return 0, b""


def fill(start: bytes, unit: bytes, end: bytes, size: int = LIMIT) -> bytes:
    """Return `start`, repetitions of `unit` up to `size` bytes, and `end`, without a comma before the end."""
    return (start + unit * ((size - len(start) - len(end)) // len(unit))).removesuffix(b",") + end


def _track(**fields: object) -> dict[str, object]:
    return {"audioFeatures": FEATURES, **fields}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def attacks() -> Iterator[Attack]:
    """Yield all attacks. They are made one at a time, as many have megabytes."""
    yield Attack("nothing, for comparison", http(SIMILAR, b'{"trackId":"unknown"}'), 404)
    for kind in KINDS.values():
        yield from kind()


def _counts() -> Iterator[Attack]:
    yield Attack("batch: 2 million zeros", http(BATCH, b"[" + b"0," * 1_999_999 + b"0]"), 413)
    units = {
        "zeros": b"0,", "objects": b"{},", "arrays": b"[],", "ids": b'{"trackId":"a"},', "wrong ids": b'{"trackId":1},',
    }  # fmt: skip
    for name, unit in units.items():
        yield Attack(f"batch: 2 MiB of {name}", http(BATCH, fill(b"[", unit, b"]")), 422)
        yield Attack(f"batch: 100 KB of {name}", http(BATCH, fill(b"[", unit, b"]", 99_000)), 422)
    yield Attack("batch: 1,000 zeros", http(BATCH, fill(b"[", b"0,", b"]", 2001)), 422)
    yield Attack(
        "batch: 1,000 tracks, the last unknown", http(BATCH, _json([_track()] * 999 + [{"trackId": "?"}])), 404
    )
    many = b"".join(b'"%d":0,' % i for i in range(240_000))[: LIMIT - 10].rpartition(b",")[0]
    for path in (CLASSIFY, RECOMMEND, SIMILAR):
        name = path.rpartition("/")[2]
        yield Attack(f"{name}: 2 MiB of unknown fields", http(path, b"{" + many + b"}"), 422)
        yield Attack(f"{name}: 8 KB of unknown fields", http(path, b"{" + many[:8000].rpartition(b",")[0] + b"}"), 422)
        yield Attack(
            f"{name}: 16 KB of unknown fields", http(path, b"{" + many[:16000].rpartition(b",")[0] + b"}"), 422
        )
    yield Attack("similar: a key 150,000 times", http(SIMILAR, fill(b"{", b'"trackId":"a",', b"}")), 422)
    yield Attack("similar: a key 45,000 times", http(SIMILAR, fill(b"{", b'"trackId":"a"    ,', b"}", 800_000)), 404)
    yield Attack("classify: 400,000 artists", http(CLASSIFY, fill(b'{"artists":[', b'"ab",', b"]}")), 422)
    yield Attack("classify: 48,000 artists", http(CLASSIFY, fill(b'{"artists":[', b'"ab",', b"]}", 48_000 * 5)), 422)


def _depths_and_numbers() -> Iterator[Attack]:
    for size in (1_000, 8_000, 16_000, LIMIT):
        yield Attack(
            f"classify: {size:,} arrays in each other", http(CLASSIFY, b"[" * size), 400 if size < LIMIT else 422
        )
        nested = fill(b"", b'{"trackId":', b"", size)
        yield Attack(
            f"similar: {size:,} bytes of objects in each other", http(SIMILAR, nested), 400 if size < LIMIT else 422
        )
    for size in (5_000, LIMIT):
        digits = b"9" * (size - 100)
        yield Attack(
            f"similar: an integer of {size:,} digits", http(SIMILAR, b'{"trackId":"a","limit":%b}' % digits), 422
        )
        yield Attack(f"classify: a number of {size:,} digits", http(CLASSIFY, b'{"popularity":%b}' % digits), 422)
        yield Attack(f"classify: {size:,} decimals", http(CLASSIFY, b'{"popularity":0.%b}' % digits), 422)
        yield Attack(f"classify: an exponent of {size:,} digits", http(CLASSIFY, b'{"popularity":1e%b}' % digits), 422)
    yield Attack("classify: 1e999", http(CLASSIFY, b'{"popularity":1e999}'), 422)
    yield Attack("classify: NaN", http(CLASSIFY, b'{"popularity":NaN}'), 400)
    decimals = fill(b"{", b'"popularity":0.' + b"9" * 1000 + b",", b"}")
    yield Attack("classify: 2,000 numbers of 1,000 digits", http(CLASSIFY, decimals), 422)


def _texts() -> Iterator[Attack]:
    grown = {
        "one sign for 18 letters": "\ufdfa",
        "entities": "&#xFDFA;",
        "ampersands": "&",
        "Chinese": "",
        "accents": "\u0301\u0327",
    }
    for name, unit in grown.items():
        one = unit or "".join(chr(0x4E00 + i) for i in range(1000))
        thousand = (one * 1000)[:1000]
        yield Attack(f"classify: 100 artists, {name}", http(CLASSIFY, _json(_track(artists=[thousand] * 100))), 422)
        within = (one * 80)[:80]
        status = 422 if name == "one sign for 18 letters" else 200
        yield Attack(f"classify: short artists, {name}", http(CLASSIFY, _json(_track(artists=[within] * 3))), status)
        many = [_track(artists=[(one * 400)[:400]] * 3, name=within) for _ in range(400)]
        yield Attack(f"batch: long artists, {name}", http(BATCH, _json(many)), 422)
    chinese = "".join(chr(0x4E00 + i) for i in range(1500))
    yield Attack(
        "classify: the longest text", http(CLASSIFY, _json(_track(artists=[chinese[:700]], name=chinese[700:]))), 200
    )
    slow = [_track(artists=[chinese[:200]]) for _ in range(1000)]
    yield Attack("batch: the longest texts", http(BATCH, _json(slow)), 200)
    ordinary = [_track(artists=[f"An artist {i}"], name=f"A title {i}") for i in range(1000)]
    yield Attack("batch: 1,000 ordinary tracks", http(BATCH, _json(ordinary)), 200)
    for size in (5_000, LIMIT - 100):
        long = b"a" * size
        yield Attack(f"recommend: a user of {size:,} letters", http(RECOMMEND, b'{"userId":"%b"}' % long), 422)
        yield Attack(
            f"recommend: a range of {size:,} letters", http(RECOMMEND, b'{"userId":"a","timeRange":"%b"}' % long), 422
        )
        yield Attack(f"recommend: a field of {size:,} letters", http(RECOMMEND, b'{"%b":0}' % long), 422)
    yield Attack("similar: 2 MiB of blanks", http(SIMILAR, b'{"trackId":"a"' + b" " * (LIMIT - 20) + b"}"), 404)
    yield Attack("classify: 2 MiB of escapes", http(CLASSIFY, fill(b'{"name":"', b"\\u0041", b'"}')), 422)
    yield Attack("similar: half a surrogate pair", http(SIMILAR, rb'{"trackId":"\ud800"}'), 400)
    yield Attack("similar: the other half", http(SIMILAR, rb'{"trackId":"\udc00 "}'), 400)
    yield Attack("similar: half a pair as a field", http(SIMILAR, rb'{"\udc00 ":1}'), 400)
    yield Attack("similar: zeros in an id", http(SIMILAR, rb'{"trackId":"\u0000"}'), 404)


def _ids() -> Iterator[Attack]:
    tracks = [f"simulated{i % 3000:013d}" for i in range(10_000)]
    links = [f"https://open.spotify.com/intl-de/track/{item}?si=0123456789abcdef" for item in tracks]
    unknown = [f"unknown-{i}" for i in range(10_000)]
    for name, ids in {"known": tracks, "unknown": unknown, "linked": links}.items():
        for key in ("history", "excludeIds"):
            yield Attack(f"recommend: 10,000 {name} {key}", http(RECOMMEND, _json({"userId": "u", key: ids})), 200)
    both = {"userId": "u", "history": tracks, "excludeIds": tracks, "limit": 100}
    yield Attack("recommend: 10,000 of both", http(RECOMMEND, _json(both)), 200)
    for length, status in ((190, 200), (1000, 413)):
        long = [("x" * length)[: length - 5] + f"{i:05d}" for i in range(10_000)]
        yield Attack(
            f"recommend: 10,000 ids of {length}", http(RECOMMEND, _json({"userId": "u", "history": long})), status
        )
    yield Attack("recommend: 10,001 ids", http(RECOMMEND, _json({"userId": "u", "history": [*tracks, "x"]})), 422)
    yield Attack("recommend: 400,000 ids", http(RECOMMEND, fill(b'{"userId":"u","excludeIds":[', b'"ab",', b"]}")), 422)
    slashes = "https://open.spotify.com/track/" + "/" * 900
    body = _json({"userId": "u", "history": [slashes] * 2000})
    yield Attack("recommend: 2,000 links of slashes", http(RECOMMEND, body), 200)


def _encodings() -> Iterator[Attack]:
    valid = b'{"userId":"listener-001"}'
    packed = gzip.compress(valid)

    def zipped(body: bytes, **headers: str) -> bytes:
        return http(RECOMMEND, body, content_encoding="gzip", **headers)

    yield Attack("gzip: valid", zipped(packed), 200)
    yield Attack("gzip: a bomb of 1 GB", zipped(_bomb()), 413)
    yield Attack("gzip: a bomb in a bomb", zipped(gzip.compress(_bomb())), 400)
    yield Attack("gzip: 2 MiB that unpack to nothing", zipped(packed[:10] + b"\0\0\0\xff\xff" * (LIMIT // 5 - 10)), 400)
    yield Attack("gzip: more than that", zipped(packed[:10] + b"\0\0\0\xff\xff" * (LIMIT // 4)), 413)
    yield Attack("gzip: cut short", zipped(packed[:-9]), 400)
    yield Attack("gzip: nothing", zipped(b""), 400)
    yield Attack("gzip: a wrong checksum", zipped(packed[:-8] + b"\0" * 8), 400)
    yield Attack("gzip: something else", zipped(valid), 400)
    yield Attack("gzip: more after its end", zipped(packed + b"x" * 1_000_000), 400)
    yield Attack("gzip: two of them", zipped(packed + packed), 400)
    for encoding in ("br", "zstd", "deflate", "gzip, gzip"):
        yield Attack(f"encoding {encoding}", http(RECOMMEND, packed, content_encoding=encoding), 415)
    yield Attack("a UTF-8 mark", http(RECOMMEND, b"\xef\xbb\xbf" + valid), 200)
    yield Attack("UTF-16", http(RECOMMEND, valid.decode().encode("utf-16")), 400)
    yield Attack("2 MiB of UTF-16", http(RECOMMEND, ("{" + " " * 1_000_000).encode("utf-16")), 400)
    yield Attack("UTF-16, said to be", http(RECOMMEND, valid, content_type="application/json; charset=utf-16"), 415)
    yield Attack("Latin-1", http(RECOMMEND, b'{"userId":"Beyonc\xe9"}'), 400)
    yield Attack("UTF-8, said to be", http(RECOMMEND, valid, content_type='application/json; charset="UTF-8"'), 200)
    yield Attack("JSON of another kind", http(RECOMMEND, valid, content_type="application/vnd.api+json"), 200)
    yield Attack("a form", http(RECOMMEND, b"userId=x", content_type="application/x-www-form-urlencoded"), 415)
    yield Attack("a long content type", http(RECOMMEND, valid, content_type="x" * 30_000), 415)
    yield Attack("a long path", http("/" + "x" * 30_000, valid), 414)
    yield Attack("another method", http(RECOMMEND, b"").replace(b"POST", b"DELETE"), 405)


def _feedback() -> Iterator[Attack]:
    """Yield bodies of events and lists. Each event has an answer of its own, so most are answered with 200."""

    def events(unit: bytes, count: int, before: bytes = b"") -> bytes:
        start = b'{"sentAt":"%b","events":[%b' % (datetime.now(UTC).isoformat().encode(), before)
        return http(EVENTS, start + b",".join([unit] * count) + b"]}")

    deep, digits = b"[" * 900 + b"]" * 900, b"9" * 4299
    half = rb'"\ud800",'
    yield Attack("events: 1,000 arrays in each other, 900 deep", events(deep, 1000), 422)
    yield Attack("events: the same beside half a surrogate", events(deep, 999, half), 422)
    yield Attack("events: 50 arrays in each other, 900 deep", events(deep, 50), 200)
    yield Attack("events: 480 integers of 4,299 digits", events(digits, 480), 422)
    yield Attack("events: the same beside half a surrogate", events(digits, 480, half), 422)
    between = str((2 * (2**53 - 1) + 1) * 5**1075).encode()  # with e-1075, halfway between two numbers of float64
    yield Attack(f"events: 2,600 numbers of {len(between)} digits", events(between + b"e-1075", 2600), 422)
    for size in (17, 99):
        short = b"0." + (str((2**53 - 1) * 2 + 1) + "0" * 100)[: size - 1].encode() + b"1"
        name = f"40,000 numbers of {size} digits"
        one = b",".join([short[:size]] * (40_000 if size < 50 else 20_000))
        yield Attack(f"events: one of {name}", events(b"[%b]" % one, 1), 200)
        yield Attack(f"events: one of {name}, and half a surrogate", events(b"[%b]" % one, 1, half), 200)
    fields = b",".join(b'"field%d":0' % i for i in range(45))
    yield Attack("events: 1,000 of 45 unknown fields", events(b"{%b}" % fields, 1000), 200)
    fields = b",".join(b'"field%d":0' % i for i in range(49_000))
    yield Attack("events: one of 49,000 unknown fields", events(b"{%b}" % fields, 1), 200)
    for name, letter in {"letters": b"a", "signs": rb"\u0001", "Chinese": "\u4e00".encode()}.items():
        yield Attack(f"events: 1,000 ids of 300 {name}", events(b'{"eventId":"%b"}' % (letter * 300), 1000), 200)
    yield Attack("events: 1,001", events(b"0", 1001), 422)
    yield Attack("events: 1,000 texts of halves of characters", events(b'"%b"' % (rb"\ud800" * 300), 1000), 200)
    for kind, body in {"deep": deep, "zeros": b"0"}.items():
        yield Attack(f"exposures: {kind}", http(EXPOSURES, fill(b'{"exposures":[', body + b",", b"]}")), 422)
    tracks = b",".join(b'{"id":"a%d"}' % i for i in range(1000))
    many = b",".join([b'{"userId":"u","tracks":[%b]}' % tracks] * 16)
    yield Attack("exposures: 16 lists of 1,000", http(EXPOSURES, b'{"exposures":[%b]}' % many), 200)


@cache
def _bomb() -> bytes:
    """Return a gzip stream of 1 GB of spaces."""
    stream = zlib.compressobj(wbits=31)
    return b"".join([stream.compress(b" " * 1_000_000) for _ in range(1000)]) + stream.flush()


KINDS: dict[str, Callable[[], Iterator[Attack]]] = {
    "counts": _counts,
    "depths and numbers": _depths_and_numbers,
    "texts": _texts,
    "ids": _ids,
    "encodings": _encodings,
    "feedback": _feedback,
}


@contextmanager
def attacked(bundle: Path) -> Iterator[tuple[str, "Memory"]]:
    """Serve a bundle with a feedback database. Yield the URL, and the memory of the worker."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(bundle, "--feedback", f"sqlite:///{folder}/feedback.db") as (url, process),
    ):
        yield url, Memory(worker_pid(process))


class Witness:
    """Another client in a separate process, which sends requests all the time and records its longest latency."""

    def __init__(self, url: str) -> None:
        self._pipe, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_witness, args=(url, other), daemon=True)
        self._process.start()
        self._pipe.recv()

    def watch(self, act: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes, float]:
        """Call `act`. Return its result, and the longest latency of the client at the same time in ms."""
        self._pipe.send("begin")
        self._pipe.recv()
        status, answer = act()
        self._pipe.send("end")
        return status, answer, float(self._pipe.recv())

    def close(self) -> None:
        """Stop the client."""
        self._pipe.send("stop")
        self._process.join()


def _witness(url: str, pipe: Connection) -> None:
    pipe.send("ready")
    polite_requests = http(RECOMMEND, b'{"userId":"listener-001"}'), http(SIMILAR, b'{"trackId":"x"}')
    number = 0
    while pipe.recv() == "begin":
        longest, more = 0.0, 5
        ask(url, polite_requests[0])
        pipe.send("begun")
        while more:  # some more after the end, to measure lasting effects of the attack
            start = time.perf_counter()
            ask(url, polite_requests[number % len(polite_requests)])
            longest = max(longest, time.perf_counter() - start)
            number += 1
            more -= pipe.poll(0)
        pipe.recv()
        pipe.send(1000 * longest)


class Memory:
    """Resident memory of a process, from Linux' /proc."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def reset(self) -> float:
        """Reset the peak. Return the current memory in MB."""
        (self._folder / "clear_refs").write_text("5")
        return self._read("VmRSS")

    def peak(self) -> float:
        """Return the peak since the reset in MB."""
        return self._read("VmHWM")

    def _read(self, field: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def measure(attack: Attack, url: str, memory: Memory, witness: Witness) -> Cost:
    """Attack the server once."""
    before, start = memory.reset(), time.perf_counter()
    status, answer, wait = witness.watch(lambda: ask(url, attack.request))
    return Cost(status, answer, time.perf_counter() - start, wait, memory.peak() - before)


def run(bundle: Path, repeat: int, only: str = "") -> int:
    """Print the cost of all attacks. Return how many were beyond a limit or had another status."""
    broken = 0
    print(f"{'attack':48s} status {'answer':>9s} {'ms':>8s} {'wait ms':>8s} {'+MB':>6s}")
    with attacked(bundle) as (url, memory):
        witness = Witness(url)
        for attack in attacks():
            if only not in attack.name:
                continue
            every = [measure(attack, url, memory, witness) for _ in range(repeat)]
            cost = sorted(every, key=lambda item: item.wait_ms)[len(every) // 2]
            wrong = "" if cost.status == attack.status else f"expected {attack.status}"
            wrong += "" if cost.bounded else "  BOUND"
            broken += bool(wrong)
            growth, taken = max(item.growth_mb for item in every), 1000 * median(item.seconds for item in every)
            figures = f"{len(cost.answer):9,d} {taken:8.1f} {cost.wait_ms:8.1f} {growth:6.1f}"
            print(f"{attack.name:48s} {cost.status:6d} {figures}  {wrong}", flush=True)
        witness.close()
    return broken


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.flood.requests")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="only attacks whose name holds this word")
    given = parser.parse_args()
    sys.exit(1 if run(given.bundle, given.repeat, given.only) else 0)


if __name__ == "__main__":
    main()
