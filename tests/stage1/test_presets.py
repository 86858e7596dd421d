"""The presets compose to what they say, and name every key that can be set."""

import dataclasses
import subprocess
import sys

import pytest
from omegaconf import OmegaConf
from pydantic.fields import FieldInfo

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import config_dir, load
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.stage1.base import Stage1
from unsafe2safe.stage1.model_stage1 import ModelStage1

PRESETS = {
    "qwen3_vl": ("single", "seeded"),
    "internvl": ("single", "seeded"),
    "paper": ("paper", "none"),
    "server": ("single", "seeded"),
}
SERVERS = ["stage1.vlm.model=a", "stage1.llm.model=b"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_composes_and_builds(preset):
    config = load("generate_triplets", [f"stage1={preset}", *SERVERS])
    stage1 = build(config.stage1, "stage1", Stage1)
    assert isinstance(stage1, ModelStage1)
    assert (stage1.name, (stage1.passes, stage1.replacement_plan)) == (preset, PRESETS[preset])
    assert {*config.stage1} == {"_target_", *ModelStage1.__dataclass_fields__}


def test_the_models_of_a_preset_can_be_chosen_apart():
    chosen = ["stage1=paper", "stage1/vlm=qwen3_vl_2b", "stage1/llm=server", *SERVERS[1:]]
    stage1 = load("generate_triplets", chosen).stage1
    assert (stage1["vlm"]["name"], stage1["llm"]["name"]) == ("qwen3_vl_2b", "server")


def test_the_settings_file_and_the_class_agree_on_the_defaults():
    told = OmegaConf.to_container(OmegaConf.load(config_dir() / "stage1/settings/default.yaml"))
    own = {
        field.name: field.default.default
        for field in dataclasses.fields(ModelStage1)
        if isinstance(field.default, FieldInfo) and not field.default.is_required()
    }
    assert told == own


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["stage1.passes=both"], "stage1.passes='both'"),
        (["stage1.vlm.batch_size=0"], "stage1.vlm.batch_size=0"),
        (["+stage1.llm.devise=cpu"], "unknown key 'stage1.llm.devise'; did you mean 'device'"),
        (["stage1.attributes.hair=[]"], "stage1.attributes.hair is empty"),
        (["stage1.vlm._target_=unsafe2safe.data.folder.FolderSource"], "stage1.vlm"),
    ],
)
def test_a_mistake_is_told_when_stage_1_is_built(overrides, told):
    with pytest.raises(ConfigError) as caught:
        build(load("generate_triplets", ["stage1=qwen3_vl", *overrides]).stage1, "stage1", Stage1)
    assert told in str(caught.value)


def test_composing_imports_no_torch():
    names = [f"stage1={preset}" for preset in PRESETS if preset != "server"]
    code = (
        "import sys; from unsafe2safe.core.config.compose import load\n"
        f"for name in {names}: load('generate_triplets', [name])\n"
        "sys.exit(int(any(name in sys.modules for name in ('torch', 'transformers'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_content_of_a_criteria_file_tells_runs_apart_and_its_place_does_not(tmp_path):
    from unsafe2safe.core.config.components import build
    from unsafe2safe.core.config.compose import load
    from unsafe2safe.jobs.common import run_spec
    from unsafe2safe.stage1.base import Stage1

    def folder(name, told):
        path = tmp_path / name
        path.write_text(f"- name: badges\n  description: {told}\n")
        config = load("generate_triplets", ["stage1=qwen3_vl", f"stage1.criteria={path}"])
        stage1 = build(config.stage1, "stage1", Stage1)
        ignored = ("stage1.criteria",)
        return run_spec(config, "x", "y", ignored=ignored, content=stage1.content()).output_dir

    assert folder("a.yaml", "name badges") == folder("b.yaml", "name badges")
    assert folder("a.yaml", "name badges") != folder("a.yaml", "uniforms")
