"""Real models behind real servers: one that keeps schemas, and one that says 200 and does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from backends import tiny_models
from backends.json_server import JsonServer, answers_by
from backends.servers import json_server, transformers_serve

from unsafe2safe.backends.base import ChatRequest
from unsafe2safe.backends.server import ServerModel
from unsafe2safe.backends.transformers_vlm import TransformersVlm
from unsafe2safe.core.errors import UsageError

SCHEMA = {
    "type": "object",
    "properties": {
        "review": {"type": "string", "maxLength": 20},
        "flag": {"type": "string", "enum": ["unsafe", "safe"]},
    },
    "required": ["review", "flag"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build("qwen3_vl", tmp_path_factory.mktemp("models") / "qwen3_vl")


def requests(number: int) -> list[ChatRequest]:
    draws = np.random.default_rng(3)
    return [
        ChatRequest(
            prompt=f"Is picture {index} safe?",
            system="Answer in JSON.",
            image=draws.integers(0, 256, (48, 64, 3), dtype=np.uint8),
            schema=SCHEMA,
            max_new_tokens=160,
            seed=index,
        )
        for index in range(number)
    ]


def test_our_constrained_model_over_http_answers_as_it_does_in_the_process(folder: Path) -> None:
    model = TransformersVlm(name="tiny", model=str(folder), batch_size=1)
    asked = requests(4)
    with json_server(JsonServer(answers_by(model), probe=answers_by(model))) as server:
        remote = ServerModel(
            name="tiny", model="tiny", base_url=server.base_url, image_format="PNG", concurrency=4
        )
        answers = remote.answer(asked)
        assert remote.constrained
    assert all(answer.constrained and answer.finished for answer in answers)
    assert all(set(json.loads(answer.text)) == {"review", "flag"} for answer in answers)
    assert [answer.text for answer in answers] == [
        model.answer([request])[0].text for request in asked
    ]


@pytest.mark.slow
def test_transformers_serve_answers_but_enforces_no_schema(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with transformers_serve(folder, log) as server:
        remote = ServerModel(
            name="tiny", model=server.model, base_url=server.base_url, concurrency=2
        )
        answers = remote.answer(requests(3))
        assert not remote.constrained
        wrong = ServerModel(name="tiny", model="another", base_url=server.base_url, max_retries=0)
        with pytest.raises(UsageError, match="model=another"):
            wrong.answer(requests(1))
    assert [answer.error for answer in answers] == ["", "", ""]
    assert all(answer.text for answer in answers)
    assert not any(answer.constrained for answer in answers)
    assert "Ignoring unsupported fields in the request: {'response_format'}" in log.read_text()
