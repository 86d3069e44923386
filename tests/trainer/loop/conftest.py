"""The feedback databases that the tests of the runtime have."""

from tests.runtime.feedback.conftest import database, postgresql, store

__all__ = ["database", "postgresql", "store"]
