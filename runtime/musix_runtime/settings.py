"""Settings of a server. This module alone reads the environment, once."""

import math
import os
import re
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from musix_runtime.errors import InputError

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # of prometheus-client: the folder in which the workers share their metrics
ORIGIN = r"https?://[^/\s]+"  # RFC 6454: scheme, host and port, without a path
MAX_DIGITS = 18  # of a number in the environment
MAX_WORKERS = 256
MAX_DAYS = 36_500
RENAMED = {
    "MUSIX_WAITING": "MUSIX_MAX_QUEUE",
    "MUSIX_BATCHES": "MUSIX_MAX_CONCURRENT_BATCHES",
    "MUSIX_POLL": "MUSIX_POLL_INTERVAL_S",
    "MUSIX_BODY_SECONDS": "MUSIX_BODY_TIMEOUT_S",
    "MUSIX_BODY_LIMIT": "MUSIX_MAX_BODY_BYTES",
}


@dataclass(frozen=True)
class Settings:
    """Settings of one application. The environment variable of each field is `MUSIX_<FIELD>`."""

    cors_origins: tuple[str, ...] = ()  # comma-separated; "*" allows all origins
    max_body_bytes: int = 2 * 2**20  # of one request, packed and unpacked; 1,000 tracks have about 0.5 MB
    audit_every: int = 1000  # recommendations, of which the searches of one are repeated exactly; 0: none
    poll_interval_s: float = 2.0  # between two checks of the files that are served and of a registry's live pointer
    admin_token: str = field(default="", repr=False)  # without it there are no routes of the administrator
    max_queue: int = 32  # requests that may wait; further ones are rejected with 503
    max_concurrent_batches: int = 2  # large requests that are answered at the same time, in threads
    body_timeout_s: float = 10.0  # for the whole body of a request
    max_connections: int = 1000  # of one process; less if it may open fewer files
    max_connections_per_address: int = 0  # of one process; 0: no limit, for servers behind a proxy
    max_head_bytes: int = 64 * 2**10  # request line and headers
    head_timeout_s: float = 10.0  # for the whole head of a request
    max_bodies_bytes: int = 32 * 2**20  # of all requests of one process together
    keep_alive_s: float = 75.0  # before an idle connection is closed; load balancers keep theirs for 60 s
    send_timeout_s: float = 30.0  # for a client that has stopped reading
    access_log: bool = False  # writes one line of JSON per request on standard output
    shared_metrics: Path | None = None  # folder in which the workers share their metrics
    feedback: str = field(default="", repr=False)  # URL of the feedback database; without it nothing is recorded
    feedback_keep_days: int = 0  # older feedback is deleted; 0: none
    events_max_age_days: int = 30  # older events are refused
    events_max_ahead_s: int = 300  # events that are further in the future are refused

    @classmethod
    def from_environment(cls) -> "Settings":
        """Return the settings of this process. Raises InputError for a wrong value or an old name."""
        _refuse_old_names()
        return cls(
            cors_origins=_origins("MUSIX_CORS_ORIGINS"),
            max_body_bytes=_count("MUSIX_MAX_BODY_BYTES", cls.max_body_bytes, "bytes"),
            audit_every=_count("MUSIX_AUDIT_EVERY", cls.audit_every, "recommendations", minimum=0),
            poll_interval_s=_seconds("MUSIX_POLL_INTERVAL_S", cls.poll_interval_s),
            admin_token=_token("MUSIX_ADMIN_TOKEN"),
            max_queue=_count("MUSIX_MAX_QUEUE", cls.max_queue, "requests"),
            max_concurrent_batches=_count("MUSIX_MAX_CONCURRENT_BATCHES", cls.max_concurrent_batches, "batches"),
            body_timeout_s=_seconds("MUSIX_BODY_TIMEOUT_S", cls.body_timeout_s),
            max_connections=_count("MUSIX_MAX_CONNECTIONS", cls.max_connections, "connections"),
            max_connections_per_address=_count(
                "MUSIX_MAX_CONNECTIONS_PER_ADDRESS", cls.max_connections_per_address, "connections", minimum=0
            ),
            max_head_bytes=_count("MUSIX_MAX_HEAD_BYTES", cls.max_head_bytes, "bytes"),
            head_timeout_s=_seconds("MUSIX_HEAD_TIMEOUT_S", cls.head_timeout_s),
            max_bodies_bytes=_count("MUSIX_MAX_BODIES_BYTES", cls.max_bodies_bytes, "bytes"),
            keep_alive_s=_seconds("MUSIX_KEEP_ALIVE_S", cls.keep_alive_s),
            send_timeout_s=_seconds("MUSIX_SEND_TIMEOUT_S", cls.send_timeout_s),
            access_log=_flag("MUSIX_ACCESS_LOG"),
            shared_metrics=_shared_metrics(),
            feedback=os.environ.get("MUSIX_FEEDBACK", ""),
            feedback_keep_days=_count("MUSIX_FEEDBACK_KEEP_DAYS", cls.feedback_keep_days, "days", 0, MAX_DAYS),
            events_max_age_days=_count("MUSIX_EVENTS_MAX_AGE_DAYS", cls.events_max_age_days, "days", 1, MAX_DAYS),
            events_max_ahead_s=_count("MUSIX_EVENTS_MAX_AHEAD_S", cls.events_max_ahead_s, "seconds", minimum=0),
        )


def _refuse_old_names() -> None:
    for old, new in RENAMED.items():
        if old in os.environ:
            raise InputError(f"{old}: expected {new}, found its old name; set {new} instead")


def _count(variable: str, default: int, unit: str, minimum: int = 1, maximum: int | None = None) -> int:
    text = os.environ.get(variable, str(default))
    count = int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else -1
    if not minimum <= count <= (maximum or count):
        bound = "above 0" if minimum == 1 else f"of at least {minimum}"
        bound = f"from {minimum} to {maximum:,}" if maximum else bound
        raise InputError(f"{variable}: expected a number of {unit} {bound}, found {text[:100]!r}")
    return count


def _token(variable: str) -> str:
    text = os.environ.get(variable, "").strip()
    if not (text.isascii() and text.isprintable()):
        raise InputError(f"{variable}: expected printable ASCII, found other characters")
    return text


def _flag(variable: str) -> bool:
    text = os.environ.get(variable, "0")
    if text not in ("0", "1"):
        raise InputError(f"{variable}: expected 0 or 1, found {text!r}")
    return text == "1"


def _shared_metrics() -> Path | None:
    folder = os.environ.get(SHARED_METRICS)
    if folder is None:
        return None
    try:
        with tempfile.TemporaryFile(dir=folder or os.devnull):
            return Path(folder)
    except OSError as error:
        raise InputError(
            f"{SHARED_METRICS}: expected a folder that can be written, found {folder!r}: {error.strerror}; "
            "make it, or unset the variable"
        ) from error


def _origins(variable: str) -> tuple[str, ...]:
    origins = [origin.strip() for origin in os.environ.get(variable, "").split(",") if origin.strip()]
    for origin in origins:
        if origin != "*" and not re.fullmatch(ORIGIN, origin):
            raise InputError(f"{variable}: expected * or origins like https://example.com, found {origin[:100]!r}")
    return tuple(origins)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise InputError(f"{variable}: expected a number of seconds above 0, found {text!r}")
    return seconds


def disable_telemetry() -> None:
    """Turn off the telemetry of ONNX Runtime and MLflow in this process. Call it before their import, and not in a
    library."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def tracking_uri() -> str:
    """Return where runs are tracked by MLflow, or nothing if they are not."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def limit_blas_threads() -> None:
    """Limit numpy to one thread, as others would spin. Call it before the import, and not in a library."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def worker_count(option: int | None) -> int:
    """Return the number of worker processes: the option `--workers`, else `WEB_CONCURRENCY`, else 1.

    Raises InputError for a number that no machine has the memory for.
    """
    count = option if option is not None else _count("WEB_CONCURRENCY", 1, "workers")
    if not 0 < count <= MAX_WORKERS:
        raise InputError(f"workers: expected 1 to {MAX_WORKERS} processes, found {count:,}")
    return count


def share_feedback(url: str) -> None:
    """Make the processes that start later use the feedback database: on a command line, others could read its
    password."""
    os.environ["MUSIX_FEEDBACK"] = url


def share_metrics(folder: Path) -> None:
    """Make the worker processes that start later write their metrics to `folder`."""
    os.environ[SHARED_METRICS] = str(folder)
