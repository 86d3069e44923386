"""The whole HTTP interface under /music of a Starlette application that has routes of its own.

python examples/mount_in_starlette.py build/demo-1.0.0 8000
curl localhost:8000/music/api/ml/recommend --json '{"userId": "listener-001", "limit": 3}'
"""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from musix_runtime import Engine, create_app


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("A shop with music\n")


def shop(bundle: str) -> Starlette:
    return Starlette(routes=[Route("/", home), Mount("/music", create_app(Engine.open(bundle)))])


if __name__ == "__main__":
    uvicorn.run(shop(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
