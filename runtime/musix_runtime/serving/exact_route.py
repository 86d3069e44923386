"""Routes that take the whole path, and only text in it."""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope


class ExactRoute(Route):
    """A route of Starlette whose last character is that of the path: Starlette's own leaves out a line feed at the end,
    and so takes the id `ann%0A` for `ann`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the route matches. Raises HTTPException 400 for a parameter that is not UTF-8, in place of
        which servers put other characters."""
        match, child_scope = super().matches(scope)
        if child_scope.get("path_params"):
            try:
                unquote_to_bytes(scope.get("raw_path") or b"").decode()
            except UnicodeDecodeError as error:
                raise HTTPException(400, "path: expected UTF-8, found other bytes") from error
        return match, child_scope
