"""The presets of local models are valid settings, and reading them loads no heavy library."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY

from unsafe2safe.backends.base import ChatModel
from unsafe2safe.core.config.components import build

PRESETS = sorted(
    path
    for path in (REPOSITORY / "configs" / "stage1").glob("[vl]lm/*.yaml")
    if "backends.transformers_" in path.read_text("utf-8")
)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_names_itself_its_command_and_its_licence(path):
    text = path.read_text("utf-8")
    model = build(yaml.safe_load(text), f"stage1.{path.parent.name}", ChatModel)
    assert model.name == path.stem
    assert f"stage1/{path.parent.name}={path.stem}" in text.splitlines()[0]
    assert "# Licence: " in text
    assert not model.trust_remote_code


def test_settings_are_read_without_torch():
    program = (
        "import sys; from unsafe2safe.backends import transformers_llm, transformers_vlm; "
        "sys.exit(' '.join({'torch', 'transformers', 'xgrammar'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
