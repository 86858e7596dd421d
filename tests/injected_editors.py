"""Editors that cheat, destroy or break, to be injected where a good one is expected."""

import numpy as np

from unsafe2safe.core.config.components import component
from unsafe2safe.editors.base import Editor


@component
class Identity(Editor):
    name: str = "identity"

    def edit(self, requests):
        return [request.image.copy() for request in requests]


@component
class Noise(Editor):
    name: str = "noise"

    def edit(self, requests):
        return [
            np.random.default_rng(request.seed % 2**32).integers(
                0, 256, request.image.shape, dtype=np.uint8
            )
            for request in requests
        ]


@component
class Grey(Editor):
    name: str = "grey"

    def edit(self, requests):
        return [np.full_like(request.image, 127) for request in requests]


@component
class Raises(Editor):
    name: str = "raises"

    def edit(self, requests):
        raise RuntimeError("Call Anna Weber")


@component
class WrongSize(Editor):
    name: str = "wrong_size"

    def edit(self, requests):
        return [request.image[:-1] for request in requests]


@component
class NotFinite(Editor):
    name: str = "nan"

    def edit(self, requests):
        return [np.full(request.image.shape, np.nan, np.float32) for request in requests]


@component
class Darker(Editor):
    """Changes the picture, and hides nothing."""

    name: str = "darker"

    def edit(self, requests):
        return [(request.image * 0.8).astype(np.uint8) for request in requests]
