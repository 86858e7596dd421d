"""Configuration is checked where it enters; each mistake is one line with the nearest right key."""

import pytest

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.data.source import ImageSource
from unsafe2safe.jobs.common import plain


@pytest.mark.parametrize("script", ["generate_triplets", "anonymize", "train", "evaluate"])
def test_every_script_composes_with_its_defaults(script):
    assert load(script).seed == 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sed=1"], "'sed'; did you mean 'seed'"),
        (["engine.unit_sze=4"], "did you mean 'engine.unit_size'"),
        (["dataset=cocco"], "did you mean 'coco'"),
        (["seed=abc"], "seed='abc'"),
        (["engine.unit_size=0"], "engine.unit_size=0"),
        (["existing=maybe"], "existing='maybe'"),
        (["+existing.foo=1"], "existing"),
        (["dataset=folder"], "dataset.root is not set"),
        (["stage1/vlm=qwen3_vl_4b"], "stage1=qwen3_vl"),
        (["+vision.facethreshold=1"], "did you mean 'face_threshold'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(overrides, told):
    with pytest.raises(ConfigError) as caught:
        load("generate_triplets", overrides)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_component_names_its_nearest_key_too():
    config = load("generate_triplets", ["dataset=coco", "+dataset.splitt=val2017"])
    with pytest.raises(ConfigError, match=r"dataset\.splitt.*did you mean 'split'"):
        build(config.dataset, "dataset", ImageSource)


def test_a_component_of_another_kind_is_refused():
    config = load("anonymize")
    with pytest.raises(ConfigError, match="is no ImageSource"):
        build(config.editor, "dataset", ImageSource)


def test_plain_configuration_is_json():
    assert plain(load("anonymize"))["verify"]["max_attempts"] >= 1
