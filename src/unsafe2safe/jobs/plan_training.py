"""``train.py mode=plan``: what a training would take, told without weights and without a GPU."""

from __future__ import annotations

from functools import partial
from typing import Literal

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_json
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import RunResult
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.jobs.common import find_input, log, result_of, run_spec
from unsafe2safe.training.editor_recipe import EditorRecipe
from unsafe2safe.training.planning.estimate import Planner, Settings, Weights, check_settings
from unsafe2safe.training.planning.gpus import gpu_named
from unsafe2safe.training.planning.model import own_true_size, planned_model
from unsafe2safe.training.planning.report import plan_of, table
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.synthetic_editing import SyntheticEditing

PLAN_FILE = "plan.json"


def run(config: Train) -> RunResult:
    """Write ``plan.json`` to a run folder of its own and tell it as a table.

    Raises:
        UsageError: nothing of the editor is trained, or the choices do not fit each other.
    """
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    if not isinstance(recipe, EditorRecipe | SyntheticEditing):
        raise UsageError(f"mode=plan plans the fine-tuning of editors; task={recipe.name} is none")
    editor = build(config.editor, "editor", Editor)  # type: ignore[type-abstract]
    if not isinstance(editor, TrainableEditor):
        raise UsageError(f"editor={editor.name} has no weights that train.py can train")
    gpus = [gpu_named(name) for name in config.plan.gpus]
    samples = _samples(config, recipe)
    planned = planned_model(editor, config.plan.model, config.plan.resolution)
    settings = settings_of(config, planned.resolution, editor)
    check_settings(settings, planned.trainable)
    name = config.plan.model or own_true_size(editor) or editor.name
    spec = run_spec(config, "plan", editor.trainable, ignored=("dataset",), dataset={"name": name})
    with RunFolder.open(spec, config.existing) as folder:
        log.info("measuring steps of %s without weights; large models take about a minute", name)
        planner = Planner(planned, config.trainer.ema is not None, config.plan)
        plan = plan_of(planner, settings, config, gpus, samples)
        written = folder.path / PLAN_FILE
        write_json(written, plan)
        folder.finish({"gpus": len(gpus)})
        return result_of(folder, 0, f"{table(plan)}\n\n{PLAN_FILE} in {written}", written)


def settings_of(config: Train, resolution: int, editor: TrainableEditor) -> Settings:
    """What of ``config`` and ``editor`` changes a training's memory and time."""
    plan, trainer = config.plan, config.trainer
    # Every GPU of our table computes in bf16, which is what `auto` goes by.
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = (
        "bf16-mixed" if trainer.precision == "auto" else trainer.precision
    )
    return Settings(
        batch_size=trainer.batch_size,
        accumulate=trainer.accumulate,
        resolution=resolution,
        precision=precision,
        weights=plan.weights or _held(editor),
        gradient_checkpointing=trainer.gradient_checkpointing,
        cache=plan.cache,
        sharding="fsdp" if trainer.shares_weights else "ddp",
        devices=trainer.processes,
    )


def _held(editor: TrainableEditor) -> Weights:
    """As the editor loads its base."""
    if editor.quantize == "none":
        return "fp32" if editor.base_dtype == "float32" else "bf16"
    return "nf4" if editor.quantize == "nf4" else "int8"


def _samples(config: Train, recipe: Recipe) -> int | None:
    """How many pairs the training would find; None where there are none yet."""
    if config.plan.samples is not None:
        return config.plan.samples
    try:
        inputs = recipe.inputs(config, partial(find_input, config))
        return len(recipe.data(config, inputs))
    except UsageError:
        if config.pairs is not None:
            raise
        return None
