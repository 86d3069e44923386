"""The mutations by kind, and the hostile draft of a seed. To add a kind of file, write a module and one line here."""

from collections.abc import Callable

import numpy as np

from tests.fuzz import arrays, faiss_files, golden, manifest, onnx_messages
from tests.fuzz.bases import Base
from tests.fuzz.draft import Draft

Mutation = Callable[[Draft, np.random.Generator], str]  # changes the draft, and returns a description
KINDS: dict[str, tuple[Mutation, ...]] = {
    "arrays": arrays.MUTATIONS,
    "manifest": manifest.MUTATIONS,
    "faiss": faiss_files.MUTATIONS,
    "onnx": onnx_messages.MUTATIONS,
    "golden": golden.MUTATIONS,
    "signature": (manifest.signature,),
}
TWICE_SHARE = 0.1  # of drafts that are mutated twice


def mutated(base: Base, kind: str, seed: int) -> tuple[Draft, str]:
    """Return the draft of a base, kind and seed, which is deterministic, and a description of its mutations."""
    rng = np.random.default_rng(seed)
    draft, done = Draft(base), []
    for _ in range(1 + (rng.random() < TWICE_SHARE)):
        mutation = KINDS[kind][int(rng.integers(len(KINDS[kind])))]
        try:
            done.append(f"{mutation.__name__}: {mutation(draft, rng)}")
        except Exception:  # the second mutation may fail on the broken result of the first
            if not done:
                raise
    return draft, "; ".join(done)
