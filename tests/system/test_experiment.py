"""A server of an experiment under load: no request fails, and each response is of the bundle that it names."""

import json
from pathlib import Path

from musix_runtime import Registry
from musix_runtime.models.parts import open_bundle
from musix_runtime.registry import experiments
from musix_runtime.registry.assignment import assign
from tests.bundle_variants import variant
from tests.system.test_swap import Load, serve, until

USERS = [f"listener-{i:03d}" for i in range(8)]


class UserLoad(Load):
    """A load of recommendations for several users, which also records the variant of each."""

    def __init__(self, port: int, marks: dict[str, str]) -> None:
        super().__init__(port, marks)
        self.variants: dict[str, str | None] = {}
        self.questions = [
            ("POST", "/api/ml/recommend", {"userId": user, "limit": 3, "excludeIds": [user]}) for user in USERS
        ]

    def note(self, path: str, question: object, status: int, labels: list[str], body: bytes) -> None:
        super().note(path, question, status, labels, body)
        if status == 200 and isinstance(question, dict):
            self.variants[question["userId"]] = json.loads(body)["data"].get("variant")


def test_an_experiment_under_load_loses_no_request(small_bundle: Path, tmp_path: Path) -> None:
    store = Registry(tmp_path / "store")
    paths = [
        store.publish(variant(small_bundle, tmp_path / version, version, mark))
        for version, mark in (("1.0.0", "A"), ("1.1.0", "B"), ("1.2.0", "C"))
    ]
    labels = [open_bundle(path).label for path in paths]
    with serve(store.path, tmp_path, "--workers", "2") as server:
        load = UserLoad(server.port, dict(zip(labels, "ABC", strict=True)))
        with load.running():
            for number in (1, 2):
                options = {"treatment": "1.1.0", "control": "1.0.0", "share": 0.5, "listeners": 1000, "now_ms": 1}
                experiments.start(store, "demo", **options)  # type: ignore[arg-type]
                expected = {user: assign(f"demo/{number}", user, 0.5) for user in USERS}
                until(lambda expected=expected: load.variants == expected, "every user has the variant")
                experiments.stop(store, "demo", 2)
                until(lambda: set(load.variants.values()) == {None}, "the experiment is over")
        assert load.failures == []
        assert set(load.answered) == set(labels)
