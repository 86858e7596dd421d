"""Typed configuration of the four scripts. Values live in ``configs/``, types and bounds here.

Sections with a ``_target_`` (data set, editor, ...) are checked against their class's own fields
when they are built (:mod:`unsafe2safe.core.config.components`). This module imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from unsafe2safe.core.config.components import Strict
from unsafe2safe.core.config.schema_anonymize import Audit, OverlappingEngine
from unsafe2safe.core.config.schema_common import Common, Component, ShardedEngine
from unsafe2safe.core.config.schema_masks import Crops, Masks
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.config.schema_utility import Utility
from unsafe2safe.core.config.schema_verify import Verify
from unsafe2safe.core.records import Category


class TableColumns(Strict):
    """Columns of a table that is imported; null looks for the usual names."""

    image_id: str | None = Field(
        default=None, description="Column of image ids or file names of the data set."
    )
    privacy_flag: str | None = Field(
        default=None, description="Column that says `safe` or `unsafe`, or true for unsafe."
    )
    public_caption: str | None = Field(default=None, description="Column of public captions.")
    edit_instruction: str | None = Field(default=None, description="Column of edit instructions.")
    combined_caption: str | None = Field(
        default=None, description="Column of captions that hold the instruction too."
    )
    private_caption: str | None = Field(default=None, description="Column of private captions.")
    target: str | None = Field(
        default=None,
        description="Column of edited images, as paths from the table's folder or as pictures.",
    )


class ImportTable(Strict):
    """Ready-made triplets and pairs, for ``mode=import``."""

    file: Path | None = Field(
        default=None, description="CSV, TSV, JSONL or Parquet file that `mode=import` reads."
    )
    columns: TableColumns = TableColumns()
    regions: Literal["detectors", "none"] = Field(
        default="detectors",
        description="Look for regions with the embedded detectors, and check the public texts "
        "against what they read as well; or import without regions.",
    )


class GenerateTriplets(Common):
    mode: Literal["run", "merge", "import", "export", "purge"] = Field(  # type: ignore[assignment]
        description=(
            "`run`; `merge` completes what shards wrote; `import` takes triplets from a table; "
            "`export` writes the public side as a data set; `purge` deletes the private share."
        )
    )
    engine: ShardedEngine
    stage1: Component
    table: ImportTable


class Publish(Strict):
    format: Literal["keep", "png", "jpeg", "webp", "tiff"] = Field(
        description="File format of published images; `keep`: the source's, where it is one of "
        "these four."
    )
    quality: int = Field(ge=1, le=100, description="JPEG and WebP quality.")
    subsampling: Literal["auto", "4:4:4", "4:2:2", "4:2:0"] = Field(
        description="Chroma subsampling of JPEG; `auto`: none from quality 90 on, else 4:2:0."
    )
    png_compression: int = Field(ge=0, le=9, description="PNG: 0 is fastest, 9 smallest.")
    webp_lossless: bool = Field(description="Write WebP without loss.")
    tiff_compression: Literal["deflate", "lzw", "none"] = Field(description="TIFF compression.")
    safe: Literal["reencode", "lossless"] = Field(
        description=(
            "Images that are safe as they are: encoded anew, or their compressed data copied "
            "without loss where they hold nothing but what was looked at (JPEG, PNG, WebP)."
        )
    )
    icc: Literal["srgb", "keep", "drop"] = Field(
        description=(
            "Colours: `srgb` converts to sRGB and writes no profile; `keep` leaves pixels in the "
            "file's own RGB space and embeds its profile; `drop` leaves them there without it, as "
            "readers see them that ignore profiles."
        )
    )
    names: Literal["keep", "hash"] = Field(
        description="Published names. Names that hold a finding's text, a person's name or a date "
        "are hashed in any case."
    )
    keep_tags: tuple[Literal["copyright", "digital_source_type"], ...] = Field(
        description="Metadata allowed in published files; all else is stripped and verified."
    )
    no_derivatives: Literal["skip", "edit"] = Field(
        description=(
            "Unsafe images whose licence forbids edited copies: hold them back, or edit them all "
            "the same because you have another permission."
        )
    )
    annotations: Literal["auto", "none"] = Field(
        description="Write the data set's annotations, restricted to the published images, and "
        "`metadata.csv` beside them."
    )


class Pairs(Strict):
    filter: Component = Field(
        description="What the edit of a training pair must show beside being verified: `clip` is "
        "the paper's filter and needs weights, `features` a stand-in, `none` asks nothing."
    )
    masks: bool = Field(
        description="Write what was edited as a mask beside each pair; else the regions tell it."
    )


class Anonymize(Common):
    mode: Literal["run", "merge", "plan", "audit", "purge"] = Field(  # type: ignore[assignment]
        description=(
            "`run`; `merge` completes what shards wrote; `plan` tells what a run would do; `audit` "
            "verifies a published folder; `purge` deletes the private share."
        )
    )
    engine: OverlappingEngine
    audit: Audit
    detect_only: bool = Field(
        description=(
            "Look and edit nothing: write the regions that a run would begin with, to a run folder "
            "of its own."
        )
    )
    contact_images: bool = Field(
        description=(
            "With `detect_only`: pictures with the regions drawn in, under `paths.private`."
        )
    )
    triplets: Path | None = Field(
        description="Run folder of generate_triplets.py; null takes the newest complete one."
    )
    editor: Component
    batch_size: PositiveInt = Field(description="Images decoded, edited and verified together.")
    adapter: Path | None = Field(
        description="Run folder of train.py whose adapter the editor loads; null: none."
    )
    region: Literal["full", "composite", "crops"] = Field(
        description=(
            "`full`: the edited frame as it is. `composite`: pasted into the source through the "
            "masks, so that outside them every pixel is the source's. `crops`: the same, but each "
            "region is edited by itself, at the editor's resolution."
        )
    )
    crops: Crops
    margin: float = Field(
        ge=0,
        le=2,
        description="Masks are grown by this share of each region's size; for text, of its height.",
    )
    mask_categories: tuple[Category, ...] | None = Field(
        description="Regions that are masked; null: faces, heads, text and plates, and for editors "
        "that redraw, whole persons too."
    )
    masks: Masks
    verify: Verify
    publish: Publish
    write_pairs: bool = Field(description="Write the training pairs of anonymized images.")
    min_pair_outside_ssim: float = Field(
        ge=-1, le=1, description="Least outside-mask SSIM of a training pair."
    )
    pairs: Pairs

    @model_validator(mode="after")
    def _looks_at_all_that_is_edited(self) -> Anonymize:
        if self.verify.look == "edited" and self.region == "full":
            raise ValueError("region=full edits all of an image: verify.look=whole looks at it")
        return self


class Report(Strict):
    include_originals: bool = Field(description="Show original pictures in the report.")
    max_pictures: NonNegativeInt = Field(description="Published pictures in the report, at most.")
    headline: tuple[str, ...] = Field(
        description="Metrics of the table on top and of `tables/table.tex`, those that were "
        "measured; where none was: the first ones of each group."
    )
    order_by: str | None = Field(
        description="Metric that chooses and orders the pictures, the worst first; null: the first "
        "measure of privacy that has values of single images."
    )


class Suite(Strict):
    name: Literal["images", "flags", "truth", "compare"] = Field(
        description=(
            "`images`: what runs or folders of edited images reveal and keep. `flags`: privacy "
            "flags against a data set that knows which images are private. `truth`: an editor and "
            "adapters of it on scenes whose records are known. `compare`: finished evaluations in "
            "one table."
        )
    )
    utility: tuple[Literal["classification", "captioning", "vqa", "detection"], ...] = Field(
        default=(),
        description="What models are trained for on each row's images and tested on real ones.",
    )


class Evaluate(Common):
    mode: Literal["run", "merge", "purge"] = Field(  # type: ignore[assignment]
        description=(
            "Measure, complete a run that shards have measured, or delete what such runs keep "
            "under `paths.private`: the run's own share, and the features of its data set."
        )
    )
    engine: ShardedEngine
    suite: Suite
    keep_features: bool = Field(
        description=(
            "Keep what is seen in images (faces, texts, embeddings) under `paths.private`, so "
            "that later runs on the same pictures need not look again."
        )
    )
    editor: Component = Field(description="`suite=truth`: the editor that is measured.")
    triplets: Path | None = Field(
        description=(
            "`suite=flags`: run folder of generate_triplets.py; null takes the newest complete one."
        )
    )
    runs: tuple[Path, ...] | None = Field(
        description="Run folders of anonymize.py; null takes the newest complete one. "
        "`suite=truth`: of train.py; null: none."
    )
    evaluations: tuple[Path, ...] = Field(
        description="`suite=compare`: run folders of evaluate.py, all of the same data and metrics."
    )
    originals: Path | None = Field(description="Folder of original images, with `edited`.")
    edited: Path | None = Field(description="Folder of edited images made by any tool.")
    metrics: dict[str, Component] = Field(description="Metrics, by name, in the report's order.")
    references: tuple[
        Literal[
            "identity",
            "blur",
            "mask",
            "unrelated",
            "reconstruction",
            "target",
            "target_reconstruction",
        ],
        ...,
    ] = Field(
        description="Reference rows computed beside the runs: the original, the blurred frame, "
        "grey where something is sensitive, another original. `suite=truth` has also the perfect "
        "`target`, and what the editor's autoencoder makes of original and target."
    )
    blur_sigma: PositiveFloat = Field(
        description=(
            "Gaussian sigma of the reference row `blur` (the whole frame is blurred), as a share "
            "of the image's long side."
        )
    )
    mask_margin: float = Field(
        ge=0,
        le=2,
        description=(
            "What counts as inside a mask: regions grown by this share of their size, the same for "
            "every row, whatever margin a run was edited with."
        ),
    )
    mask_categories: tuple[Category, ...] = Field(
        description="Regions that make up the masks of inside and outside."
    )
    bootstrap: PositiveInt = Field(description="Bootstrap samples behind each interval.")
    utility: Utility
    report: Report


SCRIPTS: dict[str, type[Common]] = {
    "generate_triplets": GenerateTriplets,
    "anonymize": Anonymize,
    "train": Train,
    "evaluate": Evaluate,
}
