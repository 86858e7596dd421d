"""Which pixels ``anonymize.py`` edits, and how edits come back into the frame. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from unsafe2safe.core.config.components import Strict


class Masks(Strict):
    person: Literal["box", "silhouette"] = Field(
        description="Persons are masked as their boxes or as their outlines; where no outline is "
        "found, as boxes."
    )
    feather: float = Field(
        ge=0,
        le=500,
        description="Width of the rim, outside of the margin, in which edit and source are mixed; "
        "not for `region=full`.",
    )
    feather_unit: Literal["share", "px"] = Field(
        description="Of `masks.feather`: share of each region's shorter side, or pixels."
    )
    folder: Path | None = Field(
        description="Folder of masks, PNG, each named as its image with .png for its ending or "
        "after it; all that is not black is edited. They stand in place of the regions' masks."
    )
    missing: Literal["regions", "review"] = Field(
        description="An image without a mask in `masks.folder`: mask its regions, or hold it back."
    )
    boxes: Path | None = Field(
        description="CSV, JSONL or COCO JSON of boxes that are masked too: image_id, x, y, width, "
        "height[, category], pixels of the upright image."
    )
    keep: Path | None = Field(
        description="File as `masks.boxes` of what its owner consents to show: it is neither "
        "masked nor counted by verification."
    )
    keep_share: float = Field(
        gt=0.5,
        le=1,
        description="Share of a region that must lie in one box of `masks.keep` to be kept.",
    )


class Crops(Strict):
    context: float = Field(
        ge=0,
        le=4,
        description="`region=crops`: what is cropped around a region on each side, as a share of "
        "its size.",
    )
