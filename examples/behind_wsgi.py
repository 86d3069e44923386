"""A plain WSGI application, for hosts like gunicorn, uWSGI or mod_wsgi: no framework, no event loop.

python examples/behind_wsgi.py build/demo-1.0.0 8000
curl localhost:8000/recommend --json '{"userId": "listener-001", "limit": 3}'
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import msgspec

from musix_runtime import ClassifyRequest, Engine, RecommendRequest, SimilarRequest
from musix_runtime.errors import RequestError, UnknownTrackError
from musix_runtime.parsing import parse

LIMIT = 2**20  # bytes of a question


def application(engine: Engine) -> WSGIApplication:
    routes: dict[str, tuple[type[Any], Callable[[Any], object]]] = {
        "/recommend": (RecommendRequest, engine.recommend),
        "/classify": (ClassifyRequest, engine.classify),
        "/similar": (SimilarRequest, engine.similar),
    }

    def answer(environ: WSGIEnvironment) -> tuple[HTTPStatus, object]:
        if environ["REQUEST_METHOD"] != "POST" or environ["PATH_INFO"] not in routes:
            return HTTPStatus.NOT_FOUND, {"error": f"expected POST to one of {', '.join(routes)}"}
        message, ask = routes[environ["PATH_INFO"]]
        length = environ.get("CONTENT_LENGTH") or "0"
        if not (length.isdecimal() and int(length) <= LIMIT):
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"expected at most {LIMIT:,} bytes, found {length}"}
        try:
            body = environ["wsgi.input"].read(int(length))
            return HTTPStatus.OK, ask(parse(msgspec.json.decode(body), message))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except RequestError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, {"error": error.field_errors}  # every wrong field, by its path
        except UnknownTrackError as error:
            return HTTPStatus.NOT_FOUND, {"error": str(error)}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, content = answer(environ)
        body = msgspec.json.encode(content)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return app


def main(bundle: str, port: int) -> None:
    with make_server("127.0.0.1", port, application(Engine.open(bundle))) as server:
        server.serve_forever()


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    main(given.bundle, given.port)
