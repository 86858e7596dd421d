"""What is trained of the large token editors at their true size, counted on the meta device."""

from __future__ import annotations

import pytest
from editors.tiny_omini import omini
from editors.tiny_qwen_edit import qwen_edit
from torch import nn

from unsafe2safe.training.planning.model import planned_model
from unsafe2safe.training.planning.true_size import parameter_count


def count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def test_omini_trains_its_layers_as_often_as_there_are_blocks() -> None:
    """Rank times (inputs + outputs) of each layer, by FLUX.1's published width and depth."""
    rank, width, double, single = 4, 3072, 19, 38
    mlp = 4 * width
    square = width + width
    layers = {
        "x_embedder": 64 + width,
        "norm1.linear": double * (width + 6 * width),
        "to_q, to_k, to_v": (double + single) * 3 * square,
        "to_out.0": double * square,
        "ff.net.2": double * (mlp + width),
        "proj_mlp": single * (width + mlp),
        "proj_out": single * (width + mlp + width),
    }
    # of the last block's condition nothing but keys and values is read
    unread = square + (width + mlp) + (width + mlp + width)
    planned = planned_model(omini(rank=rank), None, None)
    assert (planned.model.name, planned.resolution) == ("omini", omini().resolution)
    assert count(planned.trained) == rank * (sum(layers.values()) - unread)
    whole = parameter_count(planned.model.network) - count(planned.trained)
    assert whole == pytest.approx(11.9e9, rel=0.01)


def test_qwen_edit_trains_all_blocks_but_the_last_ones_text() -> None:
    planned = planned_model(qwen_edit(rank=16), None, None)
    attention, image_mlp = 8 * (3072 + 3072), 2 * (3072 + 12288)
    last_text = 2 * (3072 + 3072)
    assert count(planned.trained) == 16 * (60 * (attention + image_mlp) - last_text)
    whole = parameter_count(planned.model.network) - count(planned.trained)
    assert whole == pytest.approx(20.4e9, rel=0.01)


def test_a_plan_of_another_model_leaves_nothing_out() -> None:
    for editor in (omini(rank=4), qwen_edit(rank=4)):
        assert planned_model(editor, "ip2p", None).trained
