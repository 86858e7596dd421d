"""precision=auto: bf16 where the device has it, and a warning where it would be emulated."""

from __future__ import annotations

import logging

import pytest
import torch

from unsafe2safe.editors import precision
from unsafe2safe.editors.precision import computes_in_bf16, resolve_precision


@pytest.fixture(autouse=True)
def forget() -> None:
    resolve_precision.cache_clear()


def of_processor(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_a_processor_with_bf16_is_used_with_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    of_processor(monkeypatch, avx2=True, **{name: True})
    assert resolve_precision("auto", "cpu") == "bf16-mixed"
    assert resolve_precision("32-true", "cpu") == "32-true"


def test_a_processor_without_bf16_computes_in_fp32_and_says_what_else_would_cost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of_processor(monkeypatch, avx2=True, avx512_bf16=False, amx_bf16=False)
    with caplog.at_level(logging.WARNING):
        assert resolve_precision("auto", "cpu") == "32-true"
        assert not caplog.records
        for _ in range(3):
            assert resolve_precision("bf16-mixed", "cpu") == "bf16-mixed"
    assert [r.getMessage() for r in caplog.records if r.name == precision.__name__] == [
        "precision=bf16-mixed: this cpu has no bfloat16 arithmetic and emulates it, which can take "
        "many times as long; precision=auto would compute in fp32 here"
    ]


def test_torch_names_the_processors_capabilities_as_is_expected_here() -> None:
    names = [name for name in torch.cpu.get_capabilities() if "bf16" in name]
    if torch.cpu.get_capabilities()["architecture"] == "x86_64":
        assert {"avx512_bf16", "amx_bf16"} <= set(names)
    assert computes_in_bf16("mps") is False
