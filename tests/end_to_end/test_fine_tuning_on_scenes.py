"""The short form of the claim `finetune`: a minute of LoRA on scenes in other words helps."""

from __future__ import annotations

import json

import pytest
from conftest import run_script


@pytest.mark.slow
def test_a_short_fine_tuning_follows_better_and_leaks_less(tmp_path) -> None:
    tuned = run_script(
        "train",
        "experiment=tiny_finetune",
        "task.scenes=300",
        "task.held_out=8",
        "trainer.max_steps=80",
        "output_dir=tuned",
        cwd=tmp_path,
    )
    assert tuned.status == 0, tuned.said
    assert "held out: followed/mean" in tuned.said
    measured = run_script(
        "evaluate",
        "suite=truth",
        "dataset.world=phrasings",
        "dataset.size=48",
        "runs=[tuned]",
        "references=[]",
        "output_dir=measured",
        cwd=tmp_path,
    )
    assert measured.status == 0, measured.said
    rows = json.loads((tmp_path / "measured/metrics.json").read_text())["rows"]
    before, after = ({n: f["value"] for n, f in row["metrics"].items()} for row in rows)
    assert after["followed"] >= before["followed"] + 0.03
    assert after["leaked"] <= before["leaked"] - 0.05
    assert after["outside_ssim"] >= before["outside_ssim"] - 0.03
