"""Door: HTTP/1.1 of our own server, where who would be sent away is told so before anything is made of the request."""

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from musix_runtime.app import Away


class Door(HttpToolsProtocol):
    """uvicorn's protocol, which asks the application (`app.state.away`) when the head of a request was read.

    To be sent away here costs a quarter of what the way through the application costs, with the same answer. When more
    come than can be answered, that is what leaves time to answer. Whatever is not a plain request goes that other way.
    """

    away = False  # whether the request that is read was answered here, so that its body is for nobody

    def on_headers_complete(self) -> None:
        """Answer it here, or go on."""
        answer = self._ask(cast(Any, self.app).state.away) if self._plain() else None
        self.away = answer is not None
        if answer is None:
            super().on_headers_complete()
            return
        headers, body = answer
        lines = [b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *headers]]
        self.transport.write(b"".join([STATUS_LINE[503], *lines, b"\r\n", body]))
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self.away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request was read."""
        if not self.away:
            super().on_message_complete()

    def _ask(self, away: Away) -> tuple[list[tuple[bytes, bytes]], bytes] | None:
        return away(self.url) if self.parser.get_method() == b"POST" else None

    def _plain(self) -> bool:
        """Whether it is the next request of a connection that stays, and nobody waits for more than an answer."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
        )
