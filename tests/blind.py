"""Detectors that see nothing and cost nothing, for tests of how a run goes on, not of what it sees.

``editor._target_=blind.BlindRedact`` brings them into a process of its own. ``BLIND_WAIT`` in the
environment is how many seconds a batch takes there.
"""

from __future__ import annotations

import os
import time

import numpy as np

from unsafe2safe.core.config.components import component
from unsafe2safe.editors.redact import RedactEditor
from unsafe2safe.vision.perception import Perception

BLIND = ("editor._target_=blind.BlindRedact",)


def see_nothing(perception: Perception, image: np.ndarray) -> list:
    return []


@component
class BlindRedact(RedactEditor):
    """Redacts, in a process whose detectors see nothing."""

    def __post_init__(self) -> None:
        Perception.verify_faces = see_nothing
        Perception.verify_text = see_nothing

    def edit(self, requests):
        time.sleep(float(os.environ.get("BLIND_WAIT", "0")))
        return super().edit(requests)
