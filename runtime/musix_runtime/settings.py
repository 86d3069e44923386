"""Settings of a server, read from the environment once at the edge and passed down. The one place that does."""

import math
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from musix_runtime.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What a host may decide. Every field has the environment variable `MUSIX_<FIELD>`."""

    cors_origins: tuple[str, ...] = ()  # comma-separated; "*" allows every origin
    body_limit: int = 4 * 2**20  # bytes; a batch of 1,000 tracks has some 0.5 MB
    poll: float = 2.0  # seconds between two looks at the live pointer of a store
    admin_token: str = field(default="", repr=False)  # empty: the routes of the admin are off

    @classmethod
    def from_environment(cls) -> "Settings":
        """Settings of this process. Raises InputError for a value that is not one."""
        origins = os.environ.get("MUSIX_CORS_ORIGINS", "")
        limit = os.environ.get("MUSIX_BODY_LIMIT", str(cls.body_limit))
        if not (limit.isascii() and limit.isdecimal() and int(limit)):
            raise InputError(f"MUSIX_BODY_LIMIT: expected a number of bytes above 0, found {limit!r}")
        return cls(
            tuple(each.strip() for each in origins.split(",") if each.strip()),
            int(limit),
            _seconds("MUSIX_POLL", cls.poll),
            os.environ.get("MUSIX_ADMIN_TOKEN", "").strip(),
        )


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


def claim_process(bundle: Path | None = None, trust: Path | None = None) -> None:
    """Set up the environment of a process that is our own, before ONNX Runtime is imported; never done to a host."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if bundle is not None:
        os.environ["MUSIX_BUNDLE"] = str(bundle)
    if trust is not None:
        os.environ["MUSIX_TRUST"] = str(trust)
