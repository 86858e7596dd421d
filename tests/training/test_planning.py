"""What a plan adds up, advises, writes and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Plan, Train
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.ledger import result_keys
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.jobs.common import plain
from unsafe2safe.jobs.plan_training import settings_of
from unsafe2safe.jobs.train import NEVER_CHANGES_RESULT, run
from unsafe2safe.training.planning.advice import advise
from unsafe2safe.training.planning.estimate import GIB, Planner, Settings, check_settings
from unsafe2safe.training.planning.gpus import Gpu
from unsafe2safe.training.planning.model import planned_model
from unsafe2safe.training.planning.true_size import (
    read_size,
)


def tiny(kind: type[TinyEditor] = TinyEditor, **values: Any) -> TinyEditor:
    config: Any = dict(load("train").editor) | values  # type: ignore[attr-defined]
    del config["_target_"]
    return kind(**config)


def plan_keys(**values: Any) -> Plan:
    config = load("train")
    assert isinstance(config, Train)
    return config.plan.model_copy(update=values)


SETTINGS = Settings(
    batch_size=2,
    accumulate=1,
    resolution=64,
    precision="32-true",
    weights="fp32",
    gradient_checkpointing=False,
    cache=False,
    sharding="ddp",
    devices=1,
)


@pytest.fixture(scope="module")
def planner() -> Planner:
    plan = plan_keys(context_gib=0.0, fragmentation=0.0)
    return Planner(planned_model(tiny(), None, None), True, plan)


def gpu_of(size: float) -> Gpu:
    return Gpu("small", size / GIB, 100.0, 10.0)


def test_parts_of_memory_follow_from_the_weights(planner: Planner) -> None:
    parts = planner.memory(SETTINGS)
    trained = 4 * planner.trained
    assert parts["trained weights"] == parts["gradients"] == parts["moving average"] == trained
    assert parts["frozen network"] == 4 * planner.frozen
    assert parts["optimizer"] == pytest.approx(2 * trained, rel=0.01)
    two = planner.memory(replace(SETTINGS, devices=2))
    assert two["gradients"] == 2 * trained
    shared = planner.memory(replace(SETTINGS, devices=4, sharding="fsdp"))
    assert shared["frozen network"] == parts["frozen network"] / 4
    cached = planner.memory(replace(SETTINGS, cache=True))
    assert cached["text encoders"] == cached["autoencoder"] == 0
    packed = planner.memory(replace(SETTINGS, weights="nf4"))
    assert (
        packed["frozen network"]
        < planner.memory(replace(SETTINGS, weights="int8"))["frozen network"]
        < 2 * planner.frozen
    )


def test_time_is_work_over_the_reached_share_of_the_peak(planner: Planner) -> None:
    gpu = gpu_of(1e9)
    work = planner.flops_per_step(SETTINGS)
    assert planner.seconds_per_step(SETTINGS, gpu) == pytest.approx(work / (10e12 * 0.35))
    twice = replace(SETTINGS, accumulate=2, weights="bf16")
    assert planner.seconds_per_step(twice, gpu) == pytest.approx(2 * work / (100e12 * 0.35), 0.01)
    assert planner.flops_per_step(replace(SETTINGS, cache=True)) == planner.step(SETTINGS).flops


def test_a_cached_pair_is_moments_source_and_text(planner: Planner) -> None:
    size = planner.planned.model.size
    expected = 4 * (3 * 16 * 16 * 16 + size.text_tokens * size.text_width)
    assert planner.cache_bytes_per_sample(SETTINGS) == expected


def test_the_first_remedy_that_suffices_alone_is_advised(planner: Planner) -> None:
    checkpointed = planner.total(replace(SETTINGS, gradient_checkpointing=True))
    advice = advise(planner, SETTINGS, gpu_of(checkpointed))
    assert advice is not None
    assert advice.overrides == ("trainer.gradient_checkpointing=true",)


def test_advice_keeps_the_samples_of_a_step_and_fits(planner: Planner) -> None:
    gentle = replace(SETTINGS, batch_size=1, gradient_checkpointing=True, cache=True)
    gpu = gpu_of(planner.total(replace(gentle, weights="nf4", precision="bf16-mixed")))
    advice = advise(planner, SETTINGS, gpu)
    assert advice is not None
    assert len(advice.overrides) > 1
    assert planner.fits(advice.settings, gpu)
    assert advice.settings.samples_per_step == SETTINGS.samples_per_step
    assert advise(planner, SETTINGS, gpu_of(1000)) is None


@component
class NamedTrueSize(TinyEditor):
    """An editor that says of which size it is."""

    true_size: ClassVar[str | None] = "ip2p"


def test_lora_of_sd15_has_the_known_count_and_the_editors_own_targets() -> None:
    """797,184 weights at rank 4 on the attention projections, as in diffusers' first examples."""
    planned = planned_model(tiny(NamedTrueSize, rank=4, resolution=256), None, None)
    assert planned.model.name == "ip2p"
    assert planned.resolution == 256
    assert sum(p.numel() for p in planned.trained) == 797_184
    narrower = planned_model(tiny(NamedTrueSize, rank=4, targets=("to_q",)), None, None)
    assert sum(p.numel() for p in narrower.trained) < 797_184


def test_a_named_model_brings_its_targets_and_a_caption_branch_its_tokens() -> None:
    planned = planned_model(tiny(caption_branch="safe"), "ip2p", None)
    assert any("fusion_in" in name for name, _ in planned.model.network.named_parameters())
    assert planned.resolution == read_size("ip2p").resolution
    assert planned.text_tokens == 2 * 77
    with pytest.raises(UsageError, match="has no cross-attention"):
        planned_model(tiny(caption_branch="gated"), "sd3", None)


def test_the_job_writes_a_plan_that_adds_up(tmp_path: Path) -> None:
    overrides = [f"paths.runs={tmp_path}", "mode=plan", "plan.samples=1000", "plan.gpus=[h100]"]
    config = load("train", [*overrides, "trainer.precision=auto"])
    assert isinstance(config, Train)
    result = run(config)
    assert result.output_dir is not None
    plan = json.loads((result.output_dir / "plan.json").read_text("utf-8"))
    assert plan["schema"] == "unsafe2safe.plan.1"
    parts = plan["memory_per_gpu_bytes"]
    assert parts.pop("total") == sum(parts.values())
    assert plan["gpus"]["h100"]["fits"] is True
    assert plan["settings"]["precision"] == "bf16-mixed"
    assert plan["cache_bytes"]["total"] == 1000 * plan["cache_bytes"]["per_sample"]
    assert not list(tmp_path.rglob("*.safetensors"))
    assert "h100" in result.message


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["plan.model=kontex"], "did you mean 'kontext'"),
        (["plan.gpus=[h10]"], "did you mean 'h100'"),
        (["editor=redact"], "has no weights"),
        (["task=tiny_base"], "task=tiny_base is none"),
        (["plan.model=ip2p", "plan.resolution=30"], "multiple of 8"),
        (["pairs=nowhere"], "pairs=nowhere is no run folder"),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], told: str, tmp_path: Path) -> None:
    config = load("train", [f"paths.runs={tmp_path}", "mode=plan", *overrides])
    assert isinstance(config, Train)
    with pytest.raises(UsageError, match=told) as caught:
        run(config)
    assert "\n" not in str(caught.value)


def test_a_plan_is_of_what_the_trainer_and_the_editor_say() -> None:
    shared = "trainer.devices=4", "trainer.num_nodes=2", "trainer.accumulate=3"
    for name, held in (("ip2p", "fp32"), ("kontext", "bf16")):
        config = load("train", [f"editor={name}", *shared])
        assert isinstance(config, Train)
        editor = build(config.editor, "editor", TrainableEditor)
        settings = settings_of(config, 64, editor)
        assert (settings.devices, settings.accumulate, settings.weights) == (8, 3, held)


def test_what_does_not_go_together_is_refused() -> None:
    packed = replace(SETTINGS, weights="nf4")
    with pytest.raises(UsageError, match=r"trainable=lora"):
        check_settings(packed, "full")
    with pytest.raises(UsageError, match=r"do not go together"):
        check_settings(replace(packed, sharding="fsdp", devices=2), "lora")
    with pytest.raises(ConfigError, match=r"plan\.utilization"):
        load("train", ["plan.utilization=1.5"])


def test_what_a_plan_assumes_does_not_change_a_training() -> None:
    keys = [
        result_keys(plain(load("train", [override])), NEVER_CHANGES_RESULT)
        for override in ("plan.weights=fp32", "plan.weights=nf4")
    ]
    assert keys[0] == keys[1]
