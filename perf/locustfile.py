"""Simulated listeners with sessions, for Locust: `locust -f perf/locustfile.py --bundle BUNDLE --host URL`.

A listener asks what to hear next, plays the best, asks again without what was proposed before, looks at what is similar
and what a track is. The process ends with 1 when the P95 of all requests is above `--p95-ms`, or one of them failed.
"""

import random
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, events, task

from musix_runtime.models.parts import open_bundle

FOLLOW_UPS = 3


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    parser.add_argument("--bundle", required=True, help="The bundle that the server answers from.")
    parser.add_argument("--p95-ms", type=float, default=100.0, help="Largest P95 that passes, in ms.")


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _gate(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    p95 = total.get_response_time_percentile(0.95) or 0.0
    allowed = environment.parsed_options.p95_ms
    good = total.num_requests > 0 and total.num_failures == 0 and p95 <= allowed
    environment.process_exit_code = 0 if good else 1
    print(f"{total.num_requests:,} requests, {total.num_failures:,} failed, P95 {p95:.1f} ms, allowed {allowed:.1f} ms")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _learn(environment: Any, **_: Any) -> None:
    bundle = open_bundle(Path(environment.parsed_options.bundle))
    Listener.tracks = bundle.array("catalog/track_ids.npy")
    Listener.listeners = bundle.array("collab/listeners.npy")


class Listener(FastHttpUser):
    """One listener at a time, with a pause between requests."""

    wait_time = between(0.05, 0.5)
    tracks: Any
    listeners: Any

    @task(5)
    def session(self) -> None:
        """Request recommendations, and more that exclude the earlier ones."""
        question: dict[str, Any] = {"userId": _one(self.listeners), "limit": 10}
        seen: list[str] = []
        for _ in range(FOLLOW_UPS):
            answer = self._ask("recommend", question | {"excludeIds": seen})
            result = [item["id"] for item in answer["data"]["recommendations"]] if answer else []
            if not result:
                return
            seen += result
            question["currentTrackId"] = result[0]
            self.wait()  # type: ignore[no-untyped-call]

    @task(2)
    def newcomer(self) -> None:
        """Request recommendations for an unknown user with a short history."""
        history = [_one(self.tracks) for _ in range(5)]
        self._ask("recommend", {"userId": "a listener whom nobody knows", "history": history})

    @task(2)
    def similar(self) -> None:
        """Request similar tracks."""
        self._ask("similar", {"trackId": _one(self.tracks)})

    @task(2)
    def classify(self) -> None:
        """Request genre and mood of a track."""
        self._ask("classify", {"trackId": _one(self.tracks)})

    def _ask(self, route: str, question: dict[str, Any]) -> Any:
        with self.rest("POST", f"/api/ml/{route}", json=question) as response:
            return response.js


def _one(ids: Any) -> str:
    return bytes(random.choice(ids)).decode()
