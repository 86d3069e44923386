"""HTTP/1.1 with load shedding: a request beyond the queue is rejected before Starlette sees it."""

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from musix_runtime.serving.endpoints import header_lines
from musix_runtime.serving.http_protocol import LimitedHttpProtocol
from musix_runtime.serving.rejecter import Rejecter


class LoadSheddingProtocol(LimitedHttpProtocol):
    """The protocol of one connection. It calls the application's `state.rejecter` after each request head.

    A rejection here takes less than half the time of one by the application, and has the same response. That leaves
    time for other requests under overload. All requests except simple ones go to the application.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rejecter: Rejecter = cast(Any, self.app).state.rejecter
        self.rejected = False  # whether the current request was rejected here, so that its body is ignored

    def on_headers_complete(self) -> None:
        """Reject the request, or start it."""
        response = self.rejecter.reject(self.url) if self._can_reject_early() else None
        self.rejected = response is not None
        if response is None:
            super().on_headers_complete()
            return
        self.head_complete()
        self.transport.write(STATUS_LINE[503] + header_lines(self.server_state.default_headers) + response)
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        if not self.rejected:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        if self.rejected:
            self.message_complete()
        else:
            super().on_message_complete()

    def _can_reject_early(self) -> bool:
        """Return whether this is a simple request: the only unanswered one, on a connection that stays open."""
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
