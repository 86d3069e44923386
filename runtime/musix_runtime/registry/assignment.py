"""Assignment of users to the variants of an experiment. It is a pure function, so that every host computes the same."""

import hashlib

from musix_runtime.schemas import Variant

FRACTION_BYTES = 8  # of the digest


def fraction(salt: str, user_id: str) -> float:
    """Return a number in 0..1 for a user, equally distributed over users and independent between salts.

    It is the first 8 bytes, as a big-endian number, of the SHA-256 of the salt in UTF-8, a zero byte and the user id in
    UTF-8, divided by 2**64.
    """
    digest = hashlib.sha256(salt.encode() + b"\0" + user_id.encode()).digest()
    return int.from_bytes(digest[:FRACTION_BYTES], "big") / 2 ** (8 * FRACTION_BYTES)


def assign(salt: str, user_id: str, share: float) -> Variant:
    """Return the variant of a user: treatment owns the fractions below `share`, so a larger share only adds users."""
    return "treatment" if fraction(salt, user_id) < share else "control"
