"""HTTP/1.1: uvicorn's protocol with the limits of `ConnectionLimiter`."""

import asyncio
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from musix_runtime.serving.connection_limits import FREE_BYTES, MAX_LINGERING, ConnectionLimiter, Phase
from musix_runtime.serving.refusals import refusal

MAX_URL_BYTES = 8 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 16  # requests before a response, and in one read
MAX_PIECES = 8192  # chunks of a body, and parts of them in several reads: each costs more than its bytes
MAX_LINGER_BYTES = 32 * 2**20  # discarded after a refusal, as a client may send its whole request before it reads


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. The application's `state.connection_limiter` holds the limits and all other connections.

    A request is in its head from its first byte, then in its body until the last. The rest of a body
    after its response is read and discarded, within the body limit, so that the connection stays usable.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.limits: ConnectionLimiter = cast(Any, self.app).state.connection_limiter
        self.max_head_bytes = self.limits.settings.max_head_bytes
        self.answered: RequestResponseCycle | None = None  # the request that is being answered, or was last
        self.phase: Phase | None = None
        self.fresh = True  # until the first whole head
        self.in_head = self.in_body = False
        self.in_read = False
        self.last = False  # whether the current request is the last one that is read
        self.last_refusal: str | None = None  # reason to refuse what follows the last request, after its response
        self.ended = False  # whether the connection was refused, and nothing more is parsed
        self.lingers = False  # whether the client may read the response to a refused request
        self.refusal = "invalid"  # reason of `_stop`
        self.buffered = 0  # bytes of unanswered requests
        self.discarded = 0  # bytes of a body after the response to it
        self.head_read = self.head_parsed = self.header_count = self.begun = self.pieces = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or refuse it."""
        super().connection_made(transport)
        reason = self.limits.admit(self, self.client[0] if self.client else "")
        if reason is None:
            self._update_phase()
        else:
            self._end(reason, answer=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._enter(None)
        self.limits.leave(self)
        self.ended = True
        self._drop_requests()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what was read, within all limits."""
        if self.lingers:
            self.discarded += len(data)
        if self.last or (self.ended and not (self.lingers and self.discarded <= MAX_LINGER_BYTES)):
            self.flow.pause_reading()
        if self.last or self.ended:
            return
        answered = self.in_body and not self._under_way()
        if answered:
            self._discard(len(data))
        else:
            self._hold(len(data))
        if self.ended:
            return
        self._feed(data)
        if answered and (self.in_head or self._under_way()):
            self._hold(len(data))  # the next request has begun
        self._update_phase()

    def _feed(self, data: bytes) -> None:
        between = not (self.in_head or self.in_body)
        self.begun = 0
        self.in_read = True
        try:
            self._parse(data)
            if self.in_head and (not self.begun or (self.begun == 1 and between)):
                self.head_read += len(data)  # all bytes are of this head, also those that the parser still buffers
                if self.head_read > self.max_head_bytes:
                    self._stop("head_size")
        except (httptools.HttpParserError, _StopError):
            if self.refusal == "pipelining":
                self.limits.refused(self.refusal)
                self._answer_last()
            elif self._under_way() and (self.pipeline or not self.in_body):
                self._refuse_later(self.refusal)
            else:
                self._end(self.refusal, answer=True)
        finally:
            self.in_read = False

    def _parse(self, data: bytes) -> None:
        """Feed the parser. It skips the body of a request with an Upgrade header, which a server may ignore (RFC 9110,
        section 7.8), so the head of such a request is parsed again without it."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                self.begun -= 1
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        start = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return start + b"".join(lines) + b"\r\n"

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.begun += 1
        if self.begun > MAX_PIPELINED or len(self.pipeline) >= MAX_PIPELINED:
            self._stop("pipelining")
        self.in_head = True
        self.head_read = self.head_parsed = self.header_count = self.discarded = self.pieces = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Receive a part of the URL."""
        if len(self.url) + len(url) > MAX_URL_BYTES:
            self._stop("url_size")
        self._count_head(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header; or a trailer of a chunked body, which is counted and ignored (RFC 9110, section 6.5.1)."""
        self.header_count += 1
        self._count_head(len(name) + len(value) + 4)
        if self.header_count > MAX_HEADERS:
            self._stop("head_size")
        if not self.in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless `_parse` parses it again. Refuse a URL without a path, as that of CONNECT."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop("url")
            return
        try:
            super().on_headers_complete()
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):  # AttributeError: no path
            self._stop("url")
        self.head_complete()

    def head_complete(self) -> None:
        """Record that the head is complete and the body follows."""
        self.fresh, self.in_head, self.in_body = False, False, True

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self.pieces += 1
        if self.pieces > MAX_PIECES:
            self._stop("chunks")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        if not self.parser.should_upgrade():
            self.message_complete()
            super().on_message_complete()

    def message_complete(self) -> None:
        """Record that the body is complete."""
        self.in_body = False

    def on_response_complete(self) -> None:
        """Start the next request. uvicorn's timer of idle connections is not started, as the limiter has its own."""
        self.server_state.total_requests += 1
        if not self.ended and not self.transport.is_closing():
            self._release()
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif self.last_refusal:
                self.last = False
                self._end(self.last_refusal, answer=True)
        if not self.in_read:
            self._update_phase()

    def pause_writing(self) -> None:
        """Record that the client does not read."""
        super().pause_writing()
        self._update_phase()

    def resume_writing(self) -> None:
        """Record that the client reads again."""
        super().resume_writing()
        self._update_phase()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Close the connection, unless the client has only closed its side after whole requests: they are answered."""
        if self.ended or self.in_body or not self._under_way():
            return False
        if not self.last_refusal:
            self._answer_last()
        return True

    def shutdown(self) -> None:
        """Close the connection when no request is under way any more, because the server stops."""
        if self.ended:
            self._abort()
        else:
            super().shutdown()

    def cut(self, reason: str | None) -> None:
        """Close the connection, which is overdue or evicted. A second call aborts it."""
        if self.ended or self.transport.is_closing():
            self._abort()
        elif self.phase is self.limits.stalled:
            self.limits.refused(reason or "send_time")
            self._abort()
        elif reason is None or self.phase is self.limits.idle:
            self.ended = True
            self.limits.leave(self)
            self.transport.close()
            self._update_phase()
            if reason:
                self.limits.refused(reason)
        else:
            unfinished = self.in_body or self.in_head
            self._end(reason, answer=unfinished, linger=unfinished and reason != "evicted")

    def _end(self, reason: str, answer: bool, linger: bool = True) -> None:
        """Refuse the request, with a response unless one was sent or begun."""
        self.limits.refused(reason)
        answer = answer and self._may_answer()
        self._drop_requests()
        self.ended = True
        self.limits.leave(self)
        self.lingers = linger and len(self.limits.lingering) < MAX_LINGERING
        if answer:
            self.transport.write(refusal(reason, self.server_state.default_headers))
        if self.lingers:
            self.discarded = 0
            self.transport.write_eof()  # closing with unread bytes could discard the response
        else:
            self.transport.close()
        self._update_phase()

    def _refuse_later(self, reason: str) -> None:
        """Refuse what follows whole requests after the responses to them (RFC 9112, section 9.3.2)."""
        if self.in_body:
            self.pipeline.popleft()  # the request that is refused
            self.cycle = cast(RequestResponseCycle, self.pipeline[0][0] if self.pipeline else self.answered)
        self.in_head = self.in_body = False
        self.last, self.last_refusal = True, reason

    def _may_answer(self) -> bool:
        if self._under_way():
            return self.in_body and not self.cycle.response_started and not self.pipeline
        return not self.in_body  # otherwise this request has its response

    def _count_head(self, size: int) -> None:
        self.head_parsed += size
        if self.head_parsed > self.max_head_bytes:
            self._stop("head_size")

    def _stop(self, reason: str) -> None:
        """Stop the parser, which raises the error again."""
        self.refusal = reason
        raise _StopError

    def _discard(self, size: int) -> None:
        self.discarded += size
        if self.discarded > self.limits.settings.max_body_bytes:
            self._end("body_size", answer=False)  # it was sent

    def _drop_requests(self) -> None:
        """Answer neither the request that is being answered nor those behind it, of which `cycle` is the last."""
        for cycle in (self.answered, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.answered = cycle
        super()._start_asgi_task(cycle, _closing(cycle, app) if cycle.waiting_for_100_continue else app)

    def _abort(self) -> None:
        self._drop_requests()
        self.ended = True
        self._enter(None)
        self.limits.leave(self)
        self.transport.abort()

    def _hold(self, size: int) -> None:
        self.buffered += size
        if self.buffered > FREE_BYTES:
            self.limits.hold(self, self.buffered)

    def _answer_last(self) -> None:
        """Close the connection after the responses to the requests that were read."""
        self.last = True
        if self._under_way():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _under_way(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _release(self) -> None:
        """Reduce the count of buffered bytes after a response to the share of the requests that still wait."""
        waiting = len(self.pipeline) + (1 if self.in_head else 0)
        before, self.buffered = self.buffered, self.buffered * waiting // (waiting + 1)
        if before <= FREE_BYTES:
            return
        if self.buffered > FREE_BYTES:
            self.limits.hold(self, self.buffered)
        else:
            self.limits.release(self)

    def _enter(self, phase: Phase | None) -> None:
        if self.phase is not None:
            self.phase.pop(self, None)
        self.phase = phase
        if phase is not None:
            phase[self] = self.loop.time()

    def _update_phase(self) -> None:
        phase = self._next_phase()
        if phase is not self.phase:
            self._enter(phase)

    def _next_phase(self) -> Phase | None:
        limits = self.limits
        if self.lingers:
            return limits.lingering
        if self.ended or self.transport.is_closing():
            return limits.closing
        if self.flow.write_paused:
            return limits.stalled
        if self._under_way():
            return limits.bodies if self.in_body and not self.pipeline else None
        if self.in_head or self.fresh:
            return limits.heads
        return limits.bodies if self.in_body else limits.idle


def _closing(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """Return an application whose response closes the connection if it begins before the body was asked for. The client
    may send no body then, and the next request could not be told from it (RFC 9110, section 10.1.1)."""

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_closing(event: ASGISendEvent) -> None:
            if cycle.waiting_for_100_continue and cycle.more_body:
                cycle.keep_alive = False
            await send(event)

        await app(scope, receive, send_closing)

    return answer


class _StopError(Exception):
    """A limit was exceeded while parsing."""
