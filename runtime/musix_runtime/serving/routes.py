"""The table of routes: every path that the server answers, declared once.

Starlette's routes and the OpenAPI document are both made from `ROUTES`. To add a route, write its endpoint and one
entry. A request to a model goes this way: `ROUTES` -> endpoint (`endpoints.py`) -> `DynamicBatcher.submit`
(`batching.py`) -> `handle_batch` of the endpoint -> `Engine` -> JSON.
"""

from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from musix_runtime.errors import shorten
from musix_runtime.feedback.reports import MonitoringResponse
from musix_runtime.feedback.schemas import (
    EVENT_LIMIT,
    EXPOSURE_LIMIT,
    EventsRequest,
    EventsResponse,
    ExposuresRequest,
    ExposuresResponse,
    ForgetResponse,
    Job,
    LoggedJob,
    TrainRequest,
    TrainResponse,
)
from musix_runtime.registry.experiments import Experiment
from musix_runtime.schemas import (
    BATCH_LIMIT,
    AssignRequest,
    AssignResponse,
    BundleIdentity,
    ClassifyRequest,
    ClassifyResponse,
    HealthResponse,
    ReadyResponse,
    RecommendRequest,
    RecommendResponse,
    SimilarRequest,
    SimilarResponse,
)
from musix_runtime.serving.endpoints import Classify, ClassifyMany, ModelEndpoint, Recommend, Resources, Similar
from musix_runtime.serving.exact_route import ExactRoute
from musix_runtime.serving.experiment_endpoints import Assign, ListExperiments, ShowExperiment
from musix_runtime.serving.feedback_endpoints import Forget, RecordEvents, RecordExposures, ShowReport
from musix_runtime.serving.job_endpoints import CancelJob, ListJobs, ShowJob, Train
from musix_runtime.serving.responses import error_response
from musix_runtime.serving.server_endpoints import (
    Health,
    Ready,
    Reload,
    Rollback,
    ServerEndpoint,
    ServerState,
    ShowDocs,
    ShowDocument,
    ShowIndex,
    ShowMetrics,
)

# In examples, these stand for a track of the catalogue and a user of the collab part of the bundle that is served.
TRACK_ID, USER_ID = "{trackId}", "{userId}"
BODY_ERRORS = (400, 408, 413, 415, 422, 503)  # of every route with a request body
ADMIN_ERRORS = (401, 403, 409, 503)


@dataclass(frozen=True)
class Route:
    """One route. `request` and `response` are types of `schemas.py`; a response that is not JSON has a `media_type`."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    endpoint: type[ModelEndpoint] | type[ServerEndpoint]
    operation_id: str
    tag: str
    summary: str
    request: Any = None
    response: Any = None
    status: int = 200  # of a successful response
    media_type: str = "application/json"
    errors: tuple[int, ...] = ()
    max_batch_size: int = 1  # requests that one call of the engine answers
    example: Any = None  # of a request
    admin: bool = False  # only for the administrator
    registry: bool = False  # only with a registry
    feedback: bool = False  # only with a feedback store
    enveloped: bool = True  # whether a JSON response has the form {"success": true, "data": ...}


NEEDS = {"admin": "MUSIX_ADMIN_TOKEN", "registry": "a registry", "feedback": "a feedback store"}  # of a `Route`
MODELS, FEEDBACK, EXPERIMENTS, SERVER, ADMIN = "models", "feedback", "experiments", "server", "admin"
ROUTES = (
    Route(
        *("POST", "/api/ml/classify", Classify, "classify", MODELS),
        summary="Predict genre and mood of one track.",
        request=ClassifyRequest,
        response=ClassifyResponse,
        errors=(*BODY_ERRORS, 404),
        max_batch_size=16,
        example={"trackId": TRACK_ID},
    ),
    Route(
        *("POST", "/api/ml/classify/batch", ClassifyMany, "classifyBatch", MODELS),
        summary=f"Predict genre and mood of up to {BATCH_LIMIT:,} tracks, in order.",
        request=list[ClassifyRequest],
        response=list[ClassifyResponse],
        errors=(*BODY_ERRORS, 404),
        example=[{"trackId": TRACK_ID}],
    ),
    Route(
        *("POST", "/api/ml/recommend", Recommend, "recommend", MODELS),
        summary="Recommend the next tracks to a listener, with reasons.",
        request=RecommendRequest,
        response=RecommendResponse,
        errors=BODY_ERRORS,
        max_batch_size=16,
        example={"userId": USER_ID, "limit": 5, "filters": {"explicit": False}},
    ),
    Route(
        *("POST", "/api/ml/similar", Similar, "similar", MODELS),
        summary="Find the tracks nearest to a track.",
        request=SimilarRequest,
        response=SimilarResponse,
        errors=(*BODY_ERRORS, 404),
        max_batch_size=8,
        example={"trackId": TRACK_ID, "limit": 5},
    ),
    Route(
        *("POST", "/api/ml/events", RecordEvents, "recordEvents", FEEDBACK),
        summary=f"Record up to {EVENT_LIMIT:,} events: what listeners did with tracks.",
        request=EventsRequest,
        response=EventsResponse,
        errors=BODY_ERRORS,
        example={
            "sentAt": "2026-01-31T20:05:00Z",
            "events": [
                {
                    "eventId": "0d2f6c1e-8f5a-4a53-9d3c-5b7f1f0f6a11",
                    "userId": USER_ID,
                    "trackId": TRACK_ID,
                    "action": "played",
                    "occurredAt": "2026-01-31T20:01:30Z",
                    "position": 1,
                    "msPlayed": 210000,
                }
            ],
        },
        feedback=True,
    ),
    Route(
        *("POST", "/api/ml/assign", Assign, "assign", EXPERIMENTS),
        summary="Tell the variant of a listener in the running experiment.",
        request=AssignRequest,
        response=AssignResponse,
        errors=BODY_ERRORS,
        max_batch_size=16,
        example={"userId": USER_ID},
    ),
    Route(
        *("POST", "/api/ml/exposures", RecordExposures, "recordExposures", EXPERIMENTS),
        summary=f"Record up to {EXPOSURE_LIMIT} lists that the host made and showed.",
        request=ExposuresRequest,
        response=ExposuresResponse,
        errors=BODY_ERRORS,
        example={"exposures": [{"userId": USER_ID, "tracks": [{"id": TRACK_ID, "position": 1}]}]},
        feedback=True,
    ),
    Route(
        *("GET", "/api/ml/experiments", ListExperiments, "listExperiments", ADMIN),
        summary="List the experiments of the registry.",
        response=list[Experiment],
        errors=ADMIN_ERRORS,
        admin=True,
        registry=True,
    ),
    Route(
        *("GET", "/api/ml/experiments/{number}", ShowExperiment, "showExperiment", ADMIN),
        summary="Show one experiment of the registry.",
        response=Experiment,
        errors=(*ADMIN_ERRORS, 404),
        admin=True,
        registry=True,
    ),
    Route(
        *("GET", "/api/ml/monitoring", ShowReport, "showMonitoring", ADMIN),
        summary="Show the latest report of monitoring: drift, calibration and what listeners did.",
        response=MonitoringResponse,
        errors=(401, 403, 404, 503),
        admin=True,
        registry=True,
        feedback=True,
    ),
    Route(
        *("DELETE", "/api/ml/listeners/{id}", Forget, "forgetListener", ADMIN),
        summary="Forget a listener: delete the recorded events and lists, and refuse later ones.",
        response=ForgetResponse,
        errors=(401, 403, 422, 503),
        admin=True,
        feedback=True,
    ),
    Route(
        *("POST", "/api/ml/train", Train, "train", ADMIN),
        summary="Ask for a training by a worker; while one waits or runs, that one is meant.",
        request=TrainRequest,
        response=TrainResponse,
        status=202,
        errors=(*BODY_ERRORS, 401, 403),
        example={"model": "all"},
        admin=True,
        registry=True,
        feedback=True,
    ),
    Route(
        *("GET", "/api/ml/jobs", ListJobs, "listJobs", ADMIN),
        summary="List the latest jobs, newest first.",
        response=list[Job],
        errors=(401, 403, 503),
        admin=True,
        registry=True,
        feedback=True,
    ),
    Route(
        *("GET", "/api/ml/jobs/{jobId}", ShowJob, "showJob", ADMIN),
        summary="Show a job with the end of its output.",
        response=LoggedJob,
        errors=(401, 403, 404, 503),
        admin=True,
        registry=True,
        feedback=True,
    ),
    Route(
        *("DELETE", "/api/ml/jobs/{jobId}", CancelJob, "cancelJob", ADMIN),
        summary="Cancel a job: one that waits at once, one that is running within seconds.",
        response=LoggedJob,
        errors=(*ADMIN_ERRORS, 404),
        admin=True,
        registry=True,
        feedback=True,
    ),
    Route(
        *("GET", "/health", Health, "health", SERVER),
        summary="Tell whether the process is alive.",
        response=HealthResponse,
    ),
    Route(
        *("GET", "/ready", Ready, "ready", SERVER),
        summary="Tell which bundle is served: verified, with its golden cases checked.",
        response=ReadyResponse,
        errors=(503,),
    ),
    Route(
        *("GET", "/metrics", ShowMetrics, "metrics", SERVER),
        summary="Show the metrics in Prometheus' text format.",
        media_type="text/plain",
    ),
    Route(
        *("GET", "/openapi.json", ShowDocument, "openapi", SERVER),
        summary="Show the OpenAPI document.",
        response=dict[str, Any],
        enveloped=False,
    ),
    Route(
        *("GET", "/docs", ShowDocs, "docs", SERVER),
        summary="Show the OpenAPI document as a page.",
        media_type="text/html",
    ),
    Route(
        *("GET", "/", ShowIndex, "index", SERVER),
        summary="Show a page of links.",
        media_type="text/html",
    ),
    Route(
        *("POST", "/api/ml/reload", Reload, "reload", ADMIN),
        summary="Read the registry's live pointer now, and open its bundle again if it was refused.",
        response=BundleIdentity,
        errors=ADMIN_ERRORS,
        admin=True,
        registry=True,
    ),
    Route(
        *("POST", "/api/ml/rollback", Rollback, "rollback", ADMIN),
        summary="Make the previous version live again.",
        response=BundleIdentity,
        errors=ADMIN_ERRORS,
        admin=True,
        registry=True,
    ),
)


def routes_of(*, admin: bool = False, registry: bool = False, feedback: bool = False) -> list[Route]:
    """Return the routes of a server that has an administrator, a registry and a feedback store, or not."""
    return [
        route
        for route in ROUTES
        if (admin or not route.admin) and (registry or not route.registry) and (feedback or not route.feedback)
    ]


async def no_route(request: Request, error: Exception) -> Response:
    """Handle the HTTPException of a path without a route for Starlette: say what a server needs that has one."""
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    missing = next((route for route in ROUTES if compile_path(_pattern(route.path))[0].match(path)), None)
    needs = [name for name in NEEDS if missing and getattr(missing, name)]
    found = f"one that needs {' and '.join(NEEDS[name] for name in needs)}" if needs else "none"
    return error_response(404, f"{shorten(request.url.path)}: expected a route of this server, found {found}")


def starlette_routes(routes: list[Route], resources: Resources, state: ServerState) -> list[ExactRoute]:
    """Return the routes as Starlette takes them, each with an endpoint of its own."""
    return [
        ExactRoute(_pattern(route.path), _endpoint(route, resources, state), methods=[route.method]) for route in routes
    ]


def _pattern(path: str) -> str:
    """Return a path as Starlette takes it: an id in it may have slashes."""
    return path.replace("}", ":path}")


def _endpoint(route: Route, resources: Resources, state: ServerState) -> ModelEndpoint | ServerEndpoint:
    if issubclass(route.endpoint, ModelEndpoint):
        return route.endpoint(route, resources)
    return route.endpoint(route, state)
