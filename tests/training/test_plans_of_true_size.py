"""``mode=plan`` of each editor that trains: told as a table, at its true size, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
from training.test_planning_measure import PUBLISHED

from unsafe2safe.core.config.compose import load
from unsafe2safe.jobs.train import run

# The denoiser of each: the part that its parameters are told by.
DENOISERS = {
    "ip2p": "unet_sd15",
    "ip2p_safe": "unet_sd15",
    "sdxl_ip2p": "unet_sdxl",
    "cosxl": "unet_sdxl",
    "kontext": "flux1",
    "omini": "flux1",
    "flux2_klein": "flux2_klein_4b",
    "qwen_edit": "qwen_image",
}


@pytest.mark.slow
@pytest.mark.parametrize("editor", DENOISERS)
def test_a_plan_tells_the_known_number_of_weights_and_reads_none(
    editor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights are read")

    monkeypatch.setattr(safetensors, "safe_open", reads)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", reads)
    settings = ["trainer.batch_size=1", "trainer.gradient_checkpointing=true", "plan.samples=10"]
    chosen = [f"editor={editor}", "mode=plan", f"paths.runs={tmp_path}", "plan.gpus=[h200]"]
    result = run(load("train", [*chosen, *settings]))  # type: ignore[arg-type]
    assert result.output_dir is not None
    plan = json.loads((result.output_dir / "plan.json").read_text("utf-8"))
    part = DENOISERS[editor]
    counts = plan["parameters"][part]
    assert counts["frozen"] == pytest.approx(PUBLISHED[part], rel=0.01)
    assert 0 < counts["trained"] < 0.15 * counts["frozen"]
    assert all(size >= 0 for size in plan["memory_per_gpu_bytes"].values())
    lines = result.message.splitlines()
    assert lines[0].startswith(f"Plan of {plan['model']} (lora)")
    (told,) = (line for line in lines if line.startswith(part))
    count, unit = told.split()[-2:]
    assert float(count) * {"M": 1e6, "B": 1e9}[unit] == pytest.approx(PUBLISHED[part], rel=0.01)
