"""Endpoints about jobs, for the administrator: ask for a training, follow it, cancel it. A worker does the jobs."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from musix_runtime.clock import now_ms
from musix_runtime.errors import JobError, UnknownJobError
from musix_runtime.feedback.schemas import TrainRequest, TrainResponse
from musix_runtime.serving.feedback import existing
from musix_runtime.serving.request_body import Decoder, read_body
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.serving.responses import as_json, error_response
from musix_runtime.serving.server_endpoints import ServerEndpoint, ServerState

if TYPE_CHECKING:
    from musix_runtime.serving.routes import Route


class Train(ServerEndpoint):
    """Answers TrainRequest with TrainResponse."""

    def __init__(self, route: "Route", state: ServerState) -> None:
        super().__init__(route, state)
        self.status = route.status
        self.jobs = existing(state.feedback).store.jobs
        self.decoder = Decoder(TrainRequest)

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return the id of the new job, or that of the one which waits or runs."""
        await self.state.authorization.check(request)
        body = await read_body(request.scope, request.receive, self.state.settings)
        model = self.decoder.decode(body).model
        answer = await run_in_threadpool(self._add, context.bundle.manifest.name, model)
        return as_json({"success": True, "data": answer}, self.status)

    def _add(self, name: str, model: str) -> TrainResponse:
        job = self.jobs.add(name, model, now_ms())
        return TrainResponse("training_started", job.id, self.jobs.estimate_s(name))


class _JobEndpoint(ServerEndpoint):
    """Answers with jobs, for requests without a body."""

    def __init__(self, route: "Route", state: ServerState) -> None:
        super().__init__(route, state)
        self.jobs = existing(state.feedback).store.jobs

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return what `act` returns; status 404 for an unknown job, and 409 for one that is over."""
        await self.state.authorization.check(request)
        name, job_id = context.bundle.manifest.name, request.path_params.get("jobId", "")
        try:
            data = await run_in_threadpool(self.act, name, job_id)
        except JobError as error:
            return error_response(404 if isinstance(error, UnknownJobError) else 409, str(error))
        return as_json({"success": True, "data": data})

    @abstractmethod
    def act(self, name: str, job_id: str) -> Any:
        """Return jobs of the name of the bundle, or the job with the id in the path. Called in a worker thread."""


class ListJobs(_JobEndpoint):
    """Answers with the latest jobs."""

    def act(self, name: str, job_id: str) -> Any:
        """Return the jobs, newest first."""
        return self.jobs.latest(name)


class ShowJob(_JobEndpoint):
    """Answers with one job and the end of its output."""

    def act(self, name: str, job_id: str) -> Any:
        """Return the job."""
        return self.jobs.read(job_id)


class CancelJob(_JobEndpoint):
    """Cancels a job."""

    def act(self, name: str, job_id: str) -> Any:
        """Return the job: it is over, or its worker ends it within seconds."""
        return self.jobs.cancel(job_id, now_ms())
