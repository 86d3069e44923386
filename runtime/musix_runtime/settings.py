"""Settings of a server, read from the environment once at the edge and passed down. The one place that does."""

import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from musix_runtime.errors import InputError

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own: where several workers count together


@dataclass(frozen=True)
class Settings:
    """What a host may decide. Every field has the environment variable `MUSIX_<FIELD>`."""

    cors_origins: tuple[str, ...] = ()  # comma-separated; "*" allows every origin
    body_limit: int = 4 * 2**20  # bytes; a batch of 1,000 tracks has some 0.5 MB
    poll: float = 2.0  # seconds between two looks at the live pointer of a store
    admin_token: str = field(default="", repr=False)  # empty: the routes of the admin are off
    waiting: int = 32  # requests that may wait while one is answered; who comes then is sent away with 503
    batches: int = 2  # batches that are answered at a time, beside the others
    body_seconds: float = 10.0  # in which the whole body of a request must come
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
            access_log=_flag("MUSIX_ACCESS_LOG"),
            shared_metrics=SHARED_METRICS in os.environ,
        )


def _count(variable: str, default: int, unit: str) -> int:
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise InputError(f"{variable}: expected a number of {unit} above 0, found {text!r}")
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


def bundle_path() -> Path:
    """The bundle or store that this process shall serve: `MUSIX_BUNDLE`."""
    path = os.environ.get("MUSIX_BUNDLE")
    if not path:
        raise InputError("MUSIX_BUNDLE: expected the path of a bundle or store, found nothing")
    return Path(path)


def trusted_key() -> Path | None:
    """The public key by which the bundle must be signed, if any: `MUSIX_TRUST`."""
    path = os.environ.get("MUSIX_TRUST")
    return Path(path) if path else None


def claim_process() -> None:
    """Set up the environment of a process of our own, before numpy and ONNX Runtime are imported; never of a host."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a second thread would spin while the first one answers


def hand_down(bundle: Path, trust: Path | None, metrics: Path, access_log: bool) -> None:
    """Tell the worker processes that this one will start what to serve, and where to count together."""
    os.environ["MUSIX_BUNDLE"] = str(bundle)
    if trust is not None:
        os.environ["MUSIX_TRUST"] = str(trust)
    os.environ[SHARED_METRICS] = str(metrics)
    os.environ["MUSIX_ACCESS_LOG"] = "1" if access_log else "0"
