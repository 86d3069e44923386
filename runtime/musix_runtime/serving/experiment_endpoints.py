"""Endpoints about experiments: the variant of a listener; for the administrator, the experiments of the registry."""

from abc import abstractmethod
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from musix_runtime.errors import StoreError, UnknownExperimentError
from musix_runtime.registry import experiments
from musix_runtime.registry.registry import Registry
from musix_runtime.schemas import AssignResponse
from musix_runtime.serving.endpoints import BatchedEndpoint
from musix_runtime.serving.request_context import RequestContext
from musix_runtime.serving.responses import as_json, error_response
from musix_runtime.serving.server_endpoints import ServerEndpoint


class Assign(BatchedEndpoint):
    """Answers AssignRequest with AssignResponse."""

    def predict(self, contexts: list[RequestContext]) -> list[Any]:
        """Return the variant of the user of each request."""
        return [_assignment(context) for context in contexts]


class _ReadExperiments(ServerEndpoint):
    """Reads experiments of the registry, for requests with the administrator's token."""

    async def respond(self, context: RequestContext, request: Request) -> Response:
        """Return what `read` returns; status 404 for an unknown experiment, and 409 for a broken file."""
        await self.state.authorization.check(request)
        registry, name = self.state.manager.registry, context.bundle.manifest.name
        if registry is None:
            raise ValueError("routes: expected a registry for the routes about experiments, found none")
        try:
            data = await run_in_threadpool(self.read, registry, name, request)
        except StoreError as error:
            return error_response(404 if isinstance(error, UnknownExperimentError) else 409, str(error))
        return as_json({"success": True, "data": data})

    @abstractmethod
    def read(self, registry: Registry, name: str, request: Request) -> Any:
        """Return experiments of a name. Called in a worker thread."""


class ListExperiments(_ReadExperiments):
    """Answers with all experiments."""

    def read(self, registry: Registry, name: str, request: Request) -> Any:
        """Return the experiments in the order of their numbers."""
        return experiments.read_all(registry, name)


class ShowExperiment(_ReadExperiments):
    """Answers with one experiment."""

    def read(self, registry: Registry, name: str, request: Request) -> Any:
        """Return the experiment with the number in the path."""
        return experiments.read(registry, name, experiments.parse_number(request.path_params["number"]))


def _assignment(context: RequestContext) -> AssignResponse:
    if context.traffic is None:
        return AssignResponse(None, None)
    experiment = context.traffic.experiment
    return AssignResponse(experiment.id, experiment.variant(context.request.user_id))
