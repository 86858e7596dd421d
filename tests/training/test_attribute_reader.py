"""task=attribute_reader: what it writes loads and reads as it did; a stopped run goes on."""

from __future__ import annotations

import json

import pytest

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.jobs.train import run
from unsafe2safe.vision.attribute_reader import CARD, WEIGHTS, load_reader

SHORT = [
    "experiment=attribute_reader",
    "engine.threads=1",
    "task.scenes=40",
    "task.held_out=24",
    "trainer.max_steps=6",
    "trainer.batch_size=8",
    "trainer.checkpoint_every=3",
]


def test_a_run_writes_a_reader_and_its_accuracies(tmp_path):
    result = run(load("train", [*SHORT, f"output_dir={tmp_path / 'run'}"]))
    assert result.status is ExitStatus.DONE
    folder = tmp_path / "run" / "reader"
    assert sum(p.numel() for p in load_reader(folder).parameters()) < 400_000
    facts = json.dumps(read_run(tmp_path / "run"))
    for head in ("skin", "hair_style", "glasses", "sign_letter"):
        assert f'"{head}"' in facts

    again = run(load("train", [*SHORT, f"output_dir={tmp_path / 'again'}"]))
    weights = [r.output_dir / "reader" / WEIGHTS for r in (result, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    card = json.loads((folder / CARD).read_text())
    card["values"]["skin"] = ["green"]
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(UsageError, match="other attributes"):
        load_reader(folder)
    with pytest.raises(UsageError, match="holds no attribute reader"):
        load_reader(tmp_path)
