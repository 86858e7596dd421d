"""Detectors that may look at edited images beside the embedded ones.

One is a component: a file here and a YAML in ``configs/detector``. ``verify.detectors`` names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import Box, Category
from unsafe2safe.vision.arrays import RgbImage


@dataclass(frozen=True)
class Detection:
    """Something sensitive in an image: ``box`` within its frame, ``score`` on the detector's own
    scale."""

    box: Box
    category: Category
    score: float


@component
class Detector(ABC):
    """Base of all further detectors; models load on the first :meth:`detect`."""

    name: str = Field(description="Name of the detector.")

    @abstractmethod
    def detect(self, image: RgbImage) -> list[Detection]:
        """All that it finds in ``image`` (H, W, 3) uint8 RGB."""
