"""Counter-based randomness: every draw is a function of (run seed, image_id, visit, stream).

No generator state is ever saved: a resumed, reordered or differently distributed run draws what
an undisturbed one would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_key(seed: int, image_id: str, visit: int, stream: str) -> int:
    """128-bit key of one stream of one visit to one image."""
    text = f"{seed}\0{image_id}\0{visit}\0{stream}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def generator(seed: int, image_id: str, visit: int = 0, stream: str = "") -> np.random.Generator:
    """An independent Philox generator for one stream of one visit to one image."""
    return np.random.Generator(np.random.Philox(key=derive_key(seed, image_id, visit, stream)))


def torch_seed(seed: int, image_id: str, visit: int = 0, stream: str = "") -> int:
    """A 63-bit seed for libraries that take an integer (``torch.Generator.manual_seed``)."""
    return derive_key(seed, image_id, visit, stream) & ((1 << 63) - 1)
