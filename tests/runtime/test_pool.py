from dataclasses import replace

import msgspec
import numpy as np

from musix_runtime import Engine
from musix_runtime.ranker import COMPONENTS

BLEND = {"collab": 0.5, "content": 0.25, "preference": 0.125, "freshness": 0.0625, "diversity": 0.0625}


def test_the_shortlist_is_the_best_by_the_blend_whatever_lies_in_memory_beside(engine: Engine) -> None:
    serving = msgspec.structs.replace(engine.pool.serving, pool=2, blend=BLEND)
    rng = np.random.default_rng(1)
    for count in range(3, 130):
        components = rng.random((count, len(COMPONENTS))).astype(np.float32)
        best = (components.astype(np.float64) * list(BLEND.values())).sum(axis=1).argsort()[-2:]
        for size in range(5, 16):
            np.full(size, np.nan, np.float32)  # freed at once, not cleared: what a kernel finds that looks too far
            assert replace(engine.pool, serving=serving).shortlist(components, 1).tolist() == np.sort(best).tolist()
