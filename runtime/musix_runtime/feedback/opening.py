"""Opens the feedback store. This module alone may be imported without the extra `feedback`."""

from typing import TYPE_CHECKING

from musix_runtime.errors import InputError

if TYPE_CHECKING:
    from musix_runtime.feedback.store import FeedbackStore


def open_store(url: str, create: bool = True) -> "FeedbackStore":
    """Open the store with the URL: see `FeedbackStore.open`. Raises InputError, also without the extra `feedback`."""
    try:
        from musix_runtime.feedback.store import FeedbackStore

        return FeedbackStore.open(url, create)
    except ImportError as error:
        install = "install it with: pip install 'musix-edge[feedback]'"
        raise InputError(f"feedback: expected the extra feedback, found no {error.name or error}; {install}") from error
