"""Typed configuration of train.py. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from unsafe2safe.core.config.components import Strict
from unsafe2safe.core.config.schema_common import Common, Component
from unsafe2safe.core.config.schema_sweep import Sweep


class Trainer(Strict):
    max_steps: PositiveInt = Field(description="Optimizer steps in all.")
    batch_size: PositiveInt = Field(
        description="Samples of a step on each device, times `accumulate`."
    )
    accumulate: PositiveInt = Field(
        description="Batches whose gradients are summed to one step of the optimizer."
    )
    devices: PositiveInt = Field(
        description="Processes on each node, one per device, that average their gradients."
    )
    num_nodes: PositiveInt = Field(
        description="Machines; with more than one, start train.py on each by torchrun or srun."
    )
    strategy: Literal["ddp", "fsdp", "deepspeed"] = Field(
        description="With several devices: all weights on each; or each holds its share of the "
        "denoiser's (FSDP2), or of what `zero_stage` says (DeepSpeed, where installed)."
    )
    zero_stage: Literal[2, 3] = Field(
        description="`strategy=deepspeed` shares gradients and optimizer (2), or the weights too."
    )
    gradient_checkpointing: bool = Field(
        description="Recompute each block of the denoiser in the backward pass in place of "
        "keeping it."
    )
    compile: Literal[False, "blocks", "whole"] = Field(
        description="torch.compile of the denoiser's repeated blocks, or of all of it."
    )
    attention: str | None = Field(
        description="Attention backend of diffusers while training; null: `editor.attention`."
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

    @property
    def processes(self) -> int:
        """Over all nodes."""
        return self.devices * self.num_nodes

    @property
    def shares_weights(self) -> bool:
        """Whether no process holds all of the denoiser."""
        shared = self.strategy == "fsdp" or (self.strategy == "deepspeed" and self.zero_stage == 3)
        return shared and self.processes > 1


class Cache(Strict):
    """Latents and embedded texts, encoded once."""

    mode: Literal["auto", "on", "off"] = Field(
        description="Encode pictures and texts once, keep that and train without autoencoder and "
        "text encoders; `auto`: where the editor is not tiny and each pair comes twice at least. "
        "`off`: encode at every visit; the losses are the same."
    )
    folder: Path | None = Field(
        description="Where they are kept; it shows the originals. null: under `paths.private`, by "
        "data set, editor and base, so that trainings share it."
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _yaml_bool(cls, mode: object) -> object:
        return {True: "on", False: "off"}.get(mode, mode) if isinstance(mode, bool) else mode


class Validation(Strict):
    every: PositiveInt | None = Field(
        description="Steps between validations, and one after the last step; null: none, and "
        "nothing is held out."
    )
    samples: PositiveInt = Field(description="Pictures edited at each validation, at most.")
    batch_size: PositiveInt = Field(
        description="Pictures edited at once. Whole batches are dealt to the processes, so that "
        "their number does not change the edits."
    )
    guidance: tuple[dict[str, float], ...] = Field(
        description="Guidance settings of the editor that each validation tries, as "
        "`[{text_guidance_scale: 3.0}, {text_guidance_scale: 7.5}]`; empty: the editor's own."
    )
    metrics: dict[str, Component] = Field(
        description="Metrics, by name, as `+metrics@validation.metrics=default` takes those of "
        "evaluate.py; empty: the task's own."
    )
    privacy: str = Field(
        description="Metric that tells privacy, as one minus it where less is better; `auto`: the "
        "worst of faces and texts, or of scenes' attributes."
    )
    fidelity: str = Field(
        description="Metric that tells fidelity, likewise; `auto`: SSIM outside what is private."
    )
    best: str = Field(
        description="What `best` is best in: `balance` (the harmonic mean of privacy and "
        "fidelity), `privacy`, `fidelity`, or a metric."
    )
    share: float = Field(
        gt=0,
        lt=1,
        description="Share of the pairs that is held out of training, told by what the pictures "
        "show; at most `samples` of them are edited.",
    )
    pairs: Path | None = Field(
        description="Run folder of anonymize.py whose pairs are validated on in place of a share; "
        "those that show the same pictures are held out of training."
    )
    pictures: NonNegativeInt = Field(
        description="Edited pictures shown to W&B or TensorBoard, at most: of the first samples, "
        "those that anonymize.py would publish."
    )


class Export(Strict):
    """What is made of a finished training's adapter beside itself; asked for later, it is made
    then."""

    merge: bool | Literal["denoiser"] = Field(
        description="Write `merged/` as well, which needs no adapter: true: the whole pipeline; "
        "`denoiser`: that part of it alone."
    )
    dtype: Literal["float32", "bfloat16"] | None = Field(
        description="Of the merged weights; null: as the editor loads its base."
    )
    push_to_hub: str | None = Field(
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="Repository of the hub (owner/name) that gets the adapter, or what was merged, "
        "with its card; null: none.",
    )
    private: bool = Field(description="Whether only its owner sees that repository.")


class Plan(Strict):
    """What ``mode=plan`` assumes beside the training's own keys."""

    model: str | None = Field(
        description="Model of `configs/true_size` that is planned; null: the editor's own."
    )
    resolution: PositiveInt | None = Field(
        description="Side of the training square, pixels; null: the editor's or the model's."
    )
    weights: Literal["fp32", "bf16", "int8", "nf4"] | None = Field(
        description="How the frozen weights are held; what is trained is fp32. null: as the "
        "editor loads them (`editor.quantize`, `editor.dtype`)."
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
    mode: Literal["run", "plan", "sweep", "purge"] = Field(  # type: ignore[assignment]
        description="`run`; `plan` says what the training would take, without any weights; `sweep` "
        "is a study of many trainings; `purge` deletes the cache that `run` would use."
    )
    task: Component
    pairs: Path | None = Field(
        description="Run folder of anonymize.py with pairs, or a folder that `datasets` reads, "
        "with columns source, target and edit_instruction; null takes the newest complete run."
    )
    editor: Component
    objective: Component
    optimizer: Component = Field(
        description="An optimizer of a library with its settings, from `configs/optimizer`; rate "
        "and weight decay are the trainer's."
    )
    trainer: Trainer
    cache: Cache
    validation: Validation
    export: Export
    sweep: Sweep
    plan: Plan
