"""Rejection of requests to a full queue before they are parsed. It does not depend on a server."""

from collections.abc import Sequence

from starlette.responses import Response

from musix_runtime.serving.endpoints import BatchedEndpoint, header_lines
from musix_runtime.serving.middleware import RequestHooks


class Rejecter:
    """Rejects requests to batched endpoints whose queue is full, with the response that the endpoint would give."""

    def __init__(self, endpoints: Sequence[BatchedEndpoint], hooks: RequestHooks) -> None:
        self._endpoints = {endpoint.path.encode(): endpoint for endpoint in endpoints}
        self._headers = {endpoint: header_lines(endpoint.overloaded.raw_headers) for endpoint in endpoints}
        self._hooks = hooks

    def reject(self, path: bytes) -> bytes | None:
        """Return the response to a POST request, after its status line and common headers; None if it is admitted."""
        endpoint = self._endpoints.get(path)
        if endpoint is None or endpoint.batcher.try_admit():
            return None
        response: Response = endpoint.overloaded
        context = self._hooks.on_request("POST", endpoint.path)
        context.route = endpoint.path
        self._hooks.on_response(context, response.status_code)
        return b"%b%b\r\n%b" % (self._headers[endpoint], header_lines(context.headers()), bytes(response.body))
