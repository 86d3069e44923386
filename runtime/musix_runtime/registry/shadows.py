"""Shadows of a registry: a version that answers a share of the requests a second time, and is never shown.

    REGISTRY/NAME/shadows/NUMBER.json    one shadow; the numbers go from 1 on

Only the latest shadow of a name can be running.
"""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from musix_runtime.bundle.manifest import VERSION
from musix_runtime.errors import StoreError, UnknownShadowError
from musix_runtime.registry.experiments import Time
from musix_runtime.registry.numbered_files import NumberedFiles

if TYPE_CHECKING:
    from musix_runtime.registry.registry import Registry


class Shadow(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A version that answers a share of the recommendations a second time. Times are ms since 1970 in UTC."""

    name: str  # of the bundle
    number: Annotated[int, Meta(ge=1, lt=10**9)]
    version: Annotated[str, Meta(pattern=VERSION)]
    share: Annotated[float, Meta(gt=0, le=1)]
    started_ms: Time
    stopped_ms: Time | None = None

    @property
    def id(self) -> str:
        """Name and number."""
        return f"{self.name}/{self.number}"

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"shadow {self.id}"


ADVICE = "mend it, or remove it: its shadow then ends"
FILES = NumberedFiles(Shadow, "shadows", "a shadow", UnknownShadowError, ADVICE)


def start(registry: "Registry", name: str, version: str, share: float, now_ms: int) -> Shadow:
    """Start a shadow, in place of one that is running.

    Raises StoreError for wrong values, the live version and one that is not published, BundleError for a broken one.
    """
    registry.history(name)
    with registry.writing(name) as folder:
        registry.check_published(name, version)
        number = FILES.next_number(folder)
        values = {"name": name, "number": number, "version": version, "share": share, "startedMs": now_ms}
        shadow = FILES.convert(str(folder), values)
        if version == registry.history(name)[0]:
            raise StoreError(f"{folder}: expected another version than the live one, found {version}")
        FILES.write(folder, shadow)
    return shadow


def stop(registry: "Registry", name: str, now_ms: int) -> Shadow:
    """Stop the running shadow. Raises StoreError when there is none."""
    registry.history(name)
    with registry.writing(name) as folder:
        shadow = running(registry, name)
        if shadow is None:
            raise StoreError(f"{folder}: expected a running shadow, found none")
        stopped = replace(shadow, stopped_ms=max(now_ms, shadow.started_ms))
        FILES.write(folder, stopped)
    return stopped


def latest(registry: "Registry", name: str) -> Shadow:
    """Return the latest shadow of `name`. Raises StoreError without one, and for a broken file."""
    registry.history(name)
    found = FILES.latest(registry.folder(name))
    if found is None:
        raise StoreError(f"{registry.folder(name)}: expected a shadow, found none")
    return found


def running(registry: "Registry", name: str) -> Shadow | None:
    """Return the running shadow of `name`, None without one. Raises StoreError for a broken file."""
    latest = FILES.latest(registry.folder(name))
    return latest if latest and latest.stopped_ms is None else None
