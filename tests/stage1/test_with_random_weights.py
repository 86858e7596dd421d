"""Stage 1 through true model classes with random weights: nothing they write is believed blindly,
and under a schema all of it is readable."""

import numpy as np
import pytest
from backends import tiny_models
from stage1.scripted import PLAN_ATTRIBUTES, NothingSeen

from unsafe2safe.core.config.components import build
from unsafe2safe.core.records import ImageRecord, PrivacyFlag, TripletState
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.stage1.base import Stage1


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "vlm": str(tiny_models.build("qwen3_vl", root / "vlm")),
        "llm": str(tiny_models.build("qwen3", root / "llm")),
    }


def stage1(models, **settings):
    common = {"dtype": "float32", "device": "cpu", "batch_size": 11}
    return build(
        {
            "_target_": "unsafe2safe.stage1.model_stage1.ModelStage1",
            "name": "random",
            "vlm": {
                "_target_": "unsafe2safe.backends.transformers_vlm.TransformersVlm",
                "name": "random_vlm",
                "model": models["vlm"],
                "image_long_side": 64,
                **common,
            },
            "llm": {
                "_target_": "unsafe2safe.backends.transformers_llm.TransformersLlm",
                "name": "random_llm",
                "model": models["llm"],
                **common,
            },
            "attributes": PLAN_ATTRIBUTES,
            **settings,
        },
        "stage1",
        Stage1,
    )


@pytest.fixture(scope="module")
def pictures():
    paths = sorted(photos_folder().glob("*.jpg"))
    assert len(paths) == 11
    return [(ImageRecord(path.name, path), decode_file(path, path.name)) for path in paths]


@pytest.mark.slow
def test_constrained_random_weights_give_a_readable_record_for_every_sample(models, pictures):
    described = stage1(models, caption_tokens=4096).describe(
        pictures, NothingSeen().perception(), 0
    )
    for item in described:
        assert item.triplet.state == TripletState.COMPLETE, item.triplet.reason
        assert item.triplet.public_caption
        assert item.triplet.edit_instruction
        assert item.private.private_caption
        assert "random_vlm" in item.triplet.provenance.model
        assert models["vlm"] not in str(item.triplet)


def test_a_token_limit_that_cuts_records_off_sends_every_image_to_review(models, pictures):
    described = stage1(models, caption_tokens=8).describe(pictures, NothingSeen().perception(), 0)
    assert {item.triplet.privacy_flag for item in described} == {PrivacyFlag.UNSAFE}
    assert {item.triplet.reason for item in described} == {"the answer hit the token limit"}
    assert np.all([item.triplet.public_caption == "" for item in described])
