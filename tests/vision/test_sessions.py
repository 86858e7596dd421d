"""Inference keeps its memory between pictures, gives that of large ones back, finds the same."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from unsafe2safe.vision import models

OUTPUTS = ["537", "538", "539", "540"]


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.parametrize("kept", [True, False])
def test_memory_is_kept_or_given_back_and_the_numbers_are_the_same(monkeypatch, kept):
    file = Path(str(resources.files("unsafe2safe.assets"))) / "models" / "centerface.onnx"
    picture = np.random.default_rng(0).integers(0, 256, (1, 3, 480, 640)).astype(np.float32)
    monkeypatch.setattr(models, "_KEPT", picture.size if kept else picture.size - 1)
    plain = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    expected = plain.run(OUTPUTS, {"input.1": picture})
    session = models.open_session(file, 1)
    before = resident()
    found = session.run(OUTPUTS, {"input.1": picture})
    assert (resident() - before > 30) is kept  # its activations take some 50
    for ours, theirs in zip(found, expected, strict=True):
        assert np.allclose(ours, theirs, atol=1e-4)
    again = session.run(OUTPUTS, {"input.1": picture})
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
