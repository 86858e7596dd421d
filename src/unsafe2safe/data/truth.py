"""What people said of an image's privacy, for data sets that come with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class PrivacyTruth:
    """``labels`` are the data set's own names of what makes the image private."""

    unsafe: bool
    labels: tuple[str, ...]


@runtime_checkable
class HasPrivacyTruth(Protocol):
    """A source that knows which of its images are private; flags are measured against it."""

    def truth(self, image_id: str) -> PrivacyTruth:
        """The truth of one image.

        Raises:
            UsageError: no record of this source has that id.
        """
