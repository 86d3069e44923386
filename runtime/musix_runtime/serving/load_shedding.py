"""Door: HTTP/1.1 of our own server, where who would be sent away is told so before anything is made of the request."""

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from musix_runtime.serving.endpoints import Away
from musix_runtime.serving.http_protocol import LimitedHttpProtocol


class Door(LimitedHttpProtocol):
    """The protocol of a connection, which asks the application (`app.state.away`) when the head of a request was read.

    To be sent away here costs less than half of the way through the application, with the same answer. When more come
    than can be answered, that is what leaves time to answer. Whatever is not a plain request goes that other way.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ask: Away = cast(Any, self.app).state.away
        self.away = False  # whether the request that is read was answered here, so that its body is for nobody

    def on_headers_complete(self) -> None:
        """Answer it here, or go on."""
        answer = self.ask(self.url) if self._plain() else None
        self.away = answer is not None
        if answer is None:
            super().on_headers_complete()
            return
        self.head_complete()
        common = b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])
        self.transport.write(STATUS_LINE[503] + common + answer)
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self.away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request was read."""
        if self.away:
            self.message_complete()
        else:
            super().on_message_complete()

    def _plain(self) -> bool:
        """Whether it is the next request of a connection that stays, and nobody waits for more than an answer."""
        parser = self.parser
        return (
            (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
        )
