"""Typed configuration of the four scripts. Values live in ``configs/``, types and bounds here.

Sections with a ``_target_`` (data set, editor, ...) are checked against their class's own fields
when they are built (:mod:`unsafe2safe.core.config.components`). This module imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from unsafe2safe.core.config.components import Strict
from unsafe2safe.core.records import Category
from unsafe2safe.core.units import Shard

Component = dict[str, Any]
Fraction = float


class Paths(Strict):
    data: Path = Field(description="Where data sets lie; `U2S_DATA` in the environment sets it.")
    runs: Path = Field(description="Where run folders are made.")
    private: Path = Field(
        description="Private captions, findings, quarantine; mode 0700, never inside a run folder."
    )


class Engine(Strict):
    unit_size: PositiveInt = Field(
        description="Images per work unit. Equal results are promised for equal unit sizes."
    )
    threads: NonNegativeInt = Field(
        description="Threads of each embedded model; 0 leaves the choice to its library."
    )


class ShardedEngine(Engine):
    shard: str | None = Field(
        description=(
            "`0/8`: work off the first of eight shares only, as one of eight array jobs on one "
            "`output_dir`; `mode=merge` completes the run. null: all of it."
        )
    )
    devices: PositiveInt = Field(
        description=(
            "Processes on this machine, each with its share; with CUDA, each with a GPU of its own."
        )
    )

    @field_validator("shard")
    @classmethod
    def _is_a_shard(cls, text: str | None) -> str | None:
        if text is not None:
            Shard.parse(text)
        return text


class Vision(Strict):
    face_threshold: float = Field(gt=0, lt=1, description="Least score of a face, Stage 1.")
    strict_face_threshold: float = Field(
        gt=0, lt=1, description="Least score of a face when an edited image is verified."
    )
    face_long_side: PositiveInt = Field(
        description="Images are brought to this long side before faces are searched, pixels."
    )
    text_threshold: float = Field(gt=0, lt=1, description="Least score of a line of text.")
    object_threshold: float = Field(gt=0, lt=1, description="Least score of an object.")
    gender: bool = Field(description="Infer gender of faces. Off unless you have a lawful reason.")


class Logger(Strict):
    name: Literal["none", "csv", "wandb"] = Field(
        description=(
            "Where metrics of a run are logged: nowhere, `metrics.csv` in the run folder, or that "
            "and W&B."
        )
    )
    project: str = Field(description="Project name, for trackers that have projects.")
    online: bool = Field(description="Send to the tracker's server; false keeps all on this disk.")
    log_private: bool = Field(
        description="Let originals and private captions through the privacy guard."
    )


class Common(Strict):
    """What every script takes."""

    seed: NonNegativeInt = Field(description="Seed of everything random.")
    output_dir: Path | None = Field(
        description="Run folder; null derives it from the configuration, under `paths.runs`."
    )
    existing: Literal["resume", "refuse", "overwrite"] = Field(
        description="What to do with a run folder that exists."
    )
    mode: Literal["run"] = Field(description="What the script does.")
    paths: Paths
    dataset: Component
    engine: Engine
    vision: Vision
    logger: Logger


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


class Verify(Strict):
    max_attempts: PositiveInt = Field(
        description="Edits tried per image, each stronger than the last, before it is held back."
    )
    faces: Literal["editor", "absent", "identity"] = Field(
        description=(
            "`absent`: no face may be found in the edited image. `identity`: faces may stay if "
            "none is near its source. `editor`: as the editor declares."
        )
    )
    identity_distance: PositiveFloat = Field(
        description="Least distance (L2) of an edited face from the face it replaces."
    )
    leak_ratio: float = Field(
        ge=0, le=100, description="A source string counts as readable from this similarity on."
    )
    min_outside_ssim: float = Field(
        ge=-1, le=1, description="Least SSIM with the source outside the masks."
    )
    min_contrast: PositiveFloat = Field(
        description="Least standard deviation of the luma (0-255): below, the image is constant."
    )
    max_noise: PositiveFloat = Field(
        description="Greatest noise inside the masks, as a multiple of the source image's own."
    )


class Publish(Strict):
    format: Literal["keep", "png", "jpeg"] = Field(description="File format of published images.")
    quality: int = Field(ge=1, le=100, description="JPEG and WebP quality.")
    names: Literal["keep", "hash"] = Field(
        description="Published names. Names that hold a finding's text are hashed in any case."
    )
    keep_tags: tuple[Literal["copyright", "digital_source_type", "icc"], ...] = Field(
        description="Metadata allowed in published files; all else is stripped and verified."
    )


class Anonymize(Common):
    triplets: Path | None = Field(
        description="Run folder of generate_triplets.py; null takes the newest complete one."
    )
    editor: Component
    batch_size: PositiveInt = Field(description="Images decoded, edited and verified together.")
    adapter: Path | None = Field(
        description="Run folder of train.py whose adapter the editor loads; null: none."
    )
    region: Literal["full", "composite"] = Field(
        description=(
            "`full`: the edited frame as it is. `composite`: pasted into the source through the "
            "masks, so that outside them every pixel is the source's."
        )
    )
    margin: float = Field(
        ge=0,
        le=2,
        description="Masks are grown by this share of each region's size; for text, of its height.",
    )
    mask_categories: tuple[Category, ...] = Field(description="Regions that are masked.")
    verify: Verify
    publish: Publish
    write_pairs: bool = Field(description="Write the training pairs of anonymized images.")
    min_pair_outside_ssim: float = Field(
        ge=-1, le=1, description="Least outside-mask SSIM of a training pair."
    )


class Trainer(Strict):
    max_steps: PositiveInt = Field(description="Optimizer steps in all.")
    batch_size: PositiveInt = Field(
        description="Samples of a step on each device, times `accumulate`."
    )
    accumulate: PositiveInt = Field(
        description="Batches whose gradients are summed to one step of the optimizer."
    )
    devices: PositiveInt = Field(
        description="Processes on each node, one per device; the weights are copied to each and "
        "the gradients averaged."
    )
    num_nodes: PositiveInt = Field(
        description="Machines; with more than one, start train.py on each by torchrun or srun."
    )
    learning_rate: PositiveFloat = Field(description="Peak learning rate.")
    warmup_steps: NonNegativeInt = Field(description="Steps of linear warm-up.")
    schedule: Literal["constant", "cosine"] = Field(
        description="After the warm-up: the peak to the end, or half a cosine down to 0."
    )
    hold: float = Field(
        ge=0, le=1, description="`schedule=cosine` begins to fall after this share of the steps."
    )
    ema: float | None = Field(
        gt=0,
        lt=1,
        description="Decay of the moving average of the weights, which is exported in their "
        "place; null: none.",
    )
    weight_decay: float = Field(ge=0, description="AdamW weight decay.")
    gradient_clip: PositiveFloat | None = Field(description="Gradient norm bound; null: none.")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        description="Lightning precision; `auto`: bf16-mixed where the device computes in bf16, "
        "else 32-true. LoRA weights stay in fp32."
    )
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = Field(
        description="Where to train; `auto` takes a GPU where there is one."
    )
    checkpoint_every: PositiveInt = Field(description="Steps between checkpoints.")
    log_every: PositiveInt = Field(description="Steps between logged rows.")
    gradient_check: bool = Field(
        description="Probe before training that exactly the trainable weights get gradients."
    )


class Plan(Strict):
    """What ``mode=plan`` assumes beside the training's own keys."""

    model: str | None = Field(
        description="Model of `configs/true_size` that is planned; null: the editor's own."
    )
    resolution: PositiveInt | None = Field(
        description="Side of the training square, pixels; null: the editor's or the model's."
    )
    sharding: Literal["ddp", "fsdp"] = Field(
        description="Every GPU with all weights, or each with its share of them."
    )
    gradient_checkpointing: bool = Field(
        description="Recompute each block in the backward pass in place of keeping it."
    )
    weights: Literal["fp32", "bf16", "int8", "nf4"] | None = Field(
        description="How the frozen weights are held; what is trained is fp32. null: as the "
        "editor loads them (`editor.dtype`)."
    )
    cache: bool = Field(
        description="Latents and embedded texts come from disk: neither autoencoder nor text "
        "encoders are on the GPU."
    )
    samples: PositiveInt | None = Field(
        description="Pairs, for the size of the cache; null: as many as the training would find."
    )
    gpus: tuple[str, ...] = Field(min_length=1, description="GPUs to plan for, by name.")
    utilization: float = Field(
        gt=0, le=1, description="Share of a GPU's peak that the training reaches."
    )
    context_gib: float = Field(
        ge=0, description="Allowance for the CUDA context and its libraries' workspaces, GiB."
    )
    fragmentation: float = Field(
        ge=0, description="Allowance for fragmentation, as a share of the activations."
    )


class Train(Common):
    mode: Literal["run", "plan"] = Field(  # type: ignore[assignment]
        description="`run`; `plan` says what the training would take, without any weights."
    )
    task: Component
    pairs: Path | None = Field(
        description="Run folder of anonymize.py with pairs; null takes the newest complete one."
    )
    editor: Component
    objective: Component
    optimizer: Component = Field(
        description="An optimizer of a library with its settings, from `configs/optimizer`; rate "
        "and weight decay are the trainer's."
    )
    trainer: Trainer
    plan: Plan


class Report(Strict):
    include_originals: bool = Field(description="Show original pictures in the report.")
    max_pictures: NonNegativeInt = Field(description="Published pictures in the report, at most.")


class Evaluate(Common):
    suite: Literal["images", "flags", "truth"] = Field(
        description=(
            "`images`: what runs or folders of edited images reveal and keep. `flags`: privacy "
            "flags against a data set that knows which images are private. `truth`: an editor and "
            "adapters of it on scenes whose records are known."
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
    originals: Path | None = Field(description="Folder of original images, with `edited`.")
    edited: Path | None = Field(description="Folder of edited images made by any tool.")
    metrics: dict[str, Component] = Field(description="Metrics, by name, in the report's order.")
    references: tuple[
        Literal["identity", "blur", "reconstruction", "target", "target_reconstruction"], ...
    ] = Field(
        description="Reference rows computed beside the runs. `suite=truth` has also the perfect "
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
    report: Report


SCRIPTS: dict[str, type[Common]] = {
    "generate_triplets": GenerateTriplets,
    "anonymize": Anonymize,
    "train": Train,
    "evaluate": Evaluate,
}
