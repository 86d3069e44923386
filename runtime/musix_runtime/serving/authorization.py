"""Authorization of the administrator's routes by a bearer token."""

import asyncio
import hmac
import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request

from musix_runtime.serving.request_context import without_user
from musix_runtime.serving.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)
DELAY_S = 1.0  # before a wrong token is answered
MAX_DELAYED = 20  # requests at a time; further wrong tokens get 503 at once


class AdminAuthorization:
    """Checks the token of requests. A wrong token is answered after `DELAY_S` and logged; the right one never waits."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._delayed = 0
        self._log = ThrottledLog(logger)

    async def check(self, request: Request) -> None:
        """Raise HTTPException 401 without a token, 403 with a wrong one, 503 while too many wrong ones are delayed."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            message = "authorization: expected a bearer token, found none"
            raise HTTPException(401, message, {"www-authenticate": "Bearer"})
        if hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            return
        client = request.client.host if request.client else "an unknown address"
        self._log.warn("wrong token", f"{without_user(request.url.path)}: a wrong token of the admin, from {client}")
        await self._delay()
        raise HTTPException(403, "authorization: expected the token of the admin, found another")

    async def _delay(self) -> None:
        if self._delayed >= MAX_DELAYED:
            message = "authorization: expected fewer wrong tokens at a time"
            raise HTTPException(503, message, {"retry-after": "1"})
        self._delayed += 1
        try:
            await asyncio.sleep(DELAY_S)
        finally:
            self._delayed -= 1
