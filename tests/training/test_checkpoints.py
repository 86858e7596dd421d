"""Checkpoint files go to the disk as they are written, not through a copy in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from unsafe2safe.training import checkpoints
from unsafe2safe.training.checkpoints import StreamedCheckpoints, newest_loadable


def test_a_checkpoint_is_written_to_its_file_and_not_to_memory_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = pl.Trainer(
        plugins=[StreamedCheckpoints()], accelerator="cpu", logger=False, barebones=True
    )
    into: list[object] = []
    save = torch.save
    monkeypatch.setattr(
        checkpoints.torch, "save", lambda what, where: (into.append(where), save(what, where))
    )
    path = tmp_path / "step-00000003.ckpt"
    trainer.strategy.save_checkpoint({"global_step": 3, "weight": torch.ones(2)}, path)
    assert into == [path]
    assert newest_loadable(tmp_path) == (3, path)
    assert torch.equal(trainer.strategy.load_checkpoint(path)["weight"], torch.ones(2))
