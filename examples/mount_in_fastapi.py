"""In a FastAPI application, both ways: the whole HTTP interface under /music, and an endpoint that asks the engine.

python examples/mount_in_fastapi.py build/demo-1.0.0 8000
curl localhost:8000/music/api/ml/recommend --json '{"userId": "listener-001", "limit": 3}'
curl localhost:8000/listeners/listener-001/next
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from musix_runtime import Engine, RecommendRequest, create_app


def shop(bundle: str) -> FastAPI:
    engine = Engine.open(bundle)
    music = create_app(engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with music.router.lifespan_context(music):  # a mounted application follows its files only in here
            yield

    app = FastAPI(title="A shop with music", lifespan=lifespan)
    app.mount("/music", music)

    @app.get("/listeners/{listener}/next")
    async def next_track(listener: str) -> dict[str, str]:
        """The track to play next: a millisecond's work, so it needs no thread of its own."""
        (track,) = engine.recommend(RecommendRequest(user_id=listener, limit=1)).recommendations
        return {"id": track.id, "name": track.name, "artist": track.artist}

    return app


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    uvicorn.run(shop(given.bundle), port=given.port, log_level="warning")
