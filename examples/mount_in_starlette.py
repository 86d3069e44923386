"""The whole HTTP interface under /music of a Starlette application that has routes of its own.

The settings are those of `musix serve`, such as MUSIX_FEEDBACK=sqlite:///feedback.db.

python examples/mount_in_starlette.py build/demo-1.0.0 8000
curl localhost:8000/music/api/ml/recommend --json '{"userId": "listener-001", "limit": 3}'
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from musix_runtime import ModelManager, Settings, create_app


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("A shop with music\n")


def shop(bundle: str) -> Starlette:
    music = create_app(ModelManager.open(bundle), Settings.from_environment())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with music.router.lifespan_context(music):  # a mounted application follows its files only in here
            yield

    return Starlette(routes=[Route("/", home), Mount("/music", music)], lifespan=lifespan)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    uvicorn.run(shop(given.bundle), port=given.port, log_level="warning")
