"""What the published files say beside their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.data.metadata import leftover_metadata
from unsafe2safe.metrics.base import Metric, PairSample


@component
class MetadataLeaks(Metric):
    """Share of files that hold more than a picture and what may stand beside it."""

    allowed: tuple[Literal["copyright", "digital_source_type", "icc"], ...] = Field(
        default=("copyright", "digital_source_type", "icc"),
        description="What may stand in a file beside its picture.",
    )

    title = "Files with metadata"
    group = "privacy"
    direction = "down"
    definition = (
        "Share of edited files in which anything stands beside the picture, but for what is "
        "allowed (a copyright notice alone in its EXIF block, the mark of an edited picture, a "
        "colour profile): location, camera, thumbnail, comment, bytes behind the end. JPEG, PNG, "
        "WebP and TIFF are read byte by byte; other formats count as leaks. Does not apply to "
        "images that are computed."
    )

    def expected(self, sample: PairSample) -> int:
        return int(sample.edited is None or sample.edited_file is not None)

    def values(self, samples: Sequence[PairSample]) -> list[tuple[float, ...]]:
        allowed = frozenset[str](self.allowed)
        found: list[tuple[float, ...]] = []
        for sample in samples:
            assert sample.edited_file is not None  # told by ``expected``
            content = sample.edited_file.read_bytes()
            found.append((float(bool(leftover_metadata(content, allowed))),))
        return found
