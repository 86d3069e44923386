"""Settings of a server, read from the environment once at the edge and passed down. The one place that does."""

import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from musix_runtime.errors import InputError

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own: where several workers count together
MAX_DIGITS = 18  # of a number in the environment


@dataclass(frozen=True)
class Settings:
    """What a host may decide. Every field has the environment variable `MUSIX_<FIELD>`."""

    cors_origins: tuple[str, ...] = ()  # comma-separated; "*" allows every origin
    body_limit: int = 2 * 2**20  # bytes, unpacked; a batch of 1,000 tracks has some 0.5 MB
    poll: float = 2.0  # seconds between two looks at the live pointer of a store
    admin_token: str = field(default="", repr=False)  # empty: the routes of the admin are off
    waiting: int = 32  # requests that may wait while one is answered; who comes then is sent away with 503
    batches: int = 2  # batches that are answered at a time, beside the others
    body_seconds: float = 10.0  # in which the whole body of a request must come
    max_connections: int = 1000  # of one process; fewer when it may not open as many files
    max_connections_per_address: int = 0  # of one process; 0: any number, as behind a proxy all have the same address
    max_head_bytes: int = 64 * 2**10  # request line and headers
    head_timeout_s: float = 10.0  # in which the whole head of a request must come
    max_bodies_bytes: int = 32 * 2**20  # of all requests of one process that are received or answered
    keep_alive_s: float = 75.0  # that a connection may be idle; load balancers hold theirs for 60 s
    send_timeout_s: float = 30.0  # in which a client that stopped reading must go on
    access_log: bool = False  # one line of JSON a request, on standard output
    shared_metrics: bool = False  # whether several workers count together, as prometheus-client has it

    @classmethod
    def from_environment(cls) -> "Settings":
        """Settings of this process. Raises InputError for a value that is not one."""
        origins = os.environ.get("MUSIX_CORS_ORIGINS", "")
        return cls(
            cors_origins=tuple(each.strip() for each in origins.split(",") if each.strip()),
            body_limit=_count("MUSIX_BODY_LIMIT", cls.body_limit, "bytes"),
            poll=_seconds("MUSIX_POLL", cls.poll),
            admin_token=os.environ.get("MUSIX_ADMIN_TOKEN", "").strip(),
            waiting=_count("MUSIX_WAITING", cls.waiting, "requests"),
            batches=_count("MUSIX_BATCHES", cls.batches, "batches"),
            body_seconds=_seconds("MUSIX_BODY_SECONDS", cls.body_seconds),
            max_connections=_count("MUSIX_MAX_CONNECTIONS", cls.max_connections, "connections"),
            max_connections_per_address=_count(
                "MUSIX_MAX_CONNECTIONS_PER_ADDRESS", cls.max_connections_per_address, "connections", least=0
            ),
            max_head_bytes=_count("MUSIX_MAX_HEAD_BYTES", cls.max_head_bytes, "bytes"),
            head_timeout_s=_seconds("MUSIX_HEAD_TIMEOUT_S", cls.head_timeout_s),
            max_bodies_bytes=_count("MUSIX_MAX_BODIES_BYTES", cls.max_bodies_bytes, "bytes"),
            keep_alive_s=_seconds("MUSIX_KEEP_ALIVE_S", cls.keep_alive_s),
            send_timeout_s=_seconds("MUSIX_SEND_TIMEOUT_S", cls.send_timeout_s),
            access_log=_flag("MUSIX_ACCESS_LOG"),
            shared_metrics=SHARED_METRICS in os.environ,
        )


def _count(variable: str, default: int, unit: str, least: int = 1) -> int:
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS and int(text) >= least):
        bound = "above 0" if least == 1 else f"from {least} on"
        raise InputError(f"{variable}: expected a number of {unit} {bound}, found {text[:100]!r}")
    return int(text)


def _flag(variable: str) -> bool:
    text = os.environ.get(variable, "0")
    if text not in ("0", "1"):
        raise InputError(f"{variable}: expected 0 or 1, found {text!r}")
    return text == "1"


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise InputError(f"{variable}: expected a number of seconds above 0, found {text!r}")
    return seconds


def claim_process() -> None:
    """Set up the environment of a process of our own, before numpy and ONNX Runtime are imported; never of a host."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a second thread would spin while the first one answers


def worker_count(option: int | None) -> int:
    """Number of worker processes: the option `--workers`, else `WEB_CONCURRENCY`, as platforms set it, else 1."""
    return option if option is not None else _count("WEB_CONCURRENCY", 1, "workers")


def share_metrics(folder: Path) -> None:
    """Let the worker processes that this one will start count together in `folder`."""
    os.environ[SHARED_METRICS] = str(folder)
