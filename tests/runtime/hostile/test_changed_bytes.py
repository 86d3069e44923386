"""Mapped bytes that change may cause wrong answers or errors, but no crash of the process and no NaN."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ASKS = """
import sys
from pathlib import Path
import msgspec, numpy as np
from musix_runtime import ClassifyRequest, Engine, RecommendRequest, SimilarRequest
path, rng = Path(sys.argv[1]), np.random.default_rng(0)
engine = Engine.open(path)
ids = [engine.catalog.track_id(row) for row in range(0, 600, 20)]
requests = [RecommendRequest(user_id=f"listener-{i:03d}", limit=1 + i, exclude_ids=ids[: i % 30]) for i in range(24)]
requests += [RecommendRequest(user_id="nobody", current_track_id=each, history=ids[:5]) for each in ids[:7]]
requests += [RecommendRequest(user_id="nobody")]
asked = failed = 0
for fill in (lambda size: b"\\xff" * size, lambda size: b"\\x7f" * size, rng.bytes):
    for name in sorted(each for each in engine.bundle.views if each.endswith((".npy", ".faiss"))):
        with open(path / name, "r+b") as file:
            kept = file.read()
            file.seek(0)
            file.write(fill(len(kept)))
            file.flush()
            calls = [lambda few=requests[i : i + 16]: engine.recommend_batch(few) for i in range(0, len(requests), 16)]
            calls += [lambda: engine.recommend(requests[-1]), lambda: engine.similar(SimilarRequest(ids[3]))]
            calls += [lambda: engine.classify(ClassifyRequest(track_id=ids[4]))]
            for call in calls:
                asked += 1
                try:
                    answer = call()
                except Exception:
                    failed += 1
                else:
                    assert b"null" not in msgspec.json.encode(answer), (name, answer)
            file.seek(0)
            file.write(kept)
assert engine.recommend(requests[0]).recommendations
print(asked, failed)
"""


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_process_survives_changed_files(kind: str, small_bundle: Path, ivf_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(small_bundle if kind == "flat" else ivf_bundle, tmp_path / "small-1.0.0")
    command = [sys.executable, "-W", "ignore", "-c", ASKS, bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked, failed = map(int, done.stdout.split())
    assert failed < asked / 2
