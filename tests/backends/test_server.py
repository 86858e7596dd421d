"""A server as a model: transport, order, concurrency and the probe, over HTTP on 127.0.0.1."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from backends.json_server import PATIENCE, JsonServer, Say, Status, Step, image_of, question
from backends.servers import asked, free_port, json_server, model

from unsafe2safe.backends.base import ChatRequest

SCHEMA = {
    "type": "object",
    "properties": {"flag": {"type": "string", "enum": ["unsafe", "safe"]}},
    "required": ["flag"],
    "additionalProperties": False,
}


def test_answers_keep_to_the_schema_and_say_so() -> None:
    with json_server() as server:
        vlm = model(server)
        answers = vlm.answer(asked(3, schema=SCHEMA, seed=2**63 - 1))
        assert vlm.constrained
    assert [json.loads(answer.text) for answer in answers] == [{"flag": "unsafe"}] * 3
    assert all(answer.constrained and answer.finished and not answer.error for answer in answers)
    body = server.questions[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("scripted", 0, 512)
    assert 0 <= body["seed"] < 2**31


def test_without_a_schema_nothing_is_constrained() -> None:
    with json_server() as server:
        answer = model(server).answer(asked(1))[0]
    assert (answer.text, answer.constrained) == ("question 0", False)
    assert "response_format" not in server.questions[0]


def test_a_server_is_probed_once_and_only_when_used() -> None:
    with json_server() as server:
        vlm = model(server)
        assert not server.probes
        vlm.answer(asked(2))
        vlm.answer(asked(2))
        assert vlm.answer([]) == []
    assert len(server.probes) == 1


@pytest.mark.parametrize(
    "said",
    [
        Say("Paris"),
        Say('{"capital": "Paris"}'),
        Say("{}"),
        Say(""),
        Say(None),
        Say('{"capital": "u2s-7f3a9c41e2d85b06"', "length"),
        Say('Sure: {"capital": "u2s-7f3a9c41e2d85b06"}'),
    ],
)
def test_status_200_is_no_proof_that_schemas_are_enforced(said: Say) -> None:
    with json_server(JsonServer(probe=lambda *_: said)) as server:
        vlm = model(server)
        answers = vlm.answer(asked(2, schema=SCHEMA))
        assert not vlm.constrained
    assert not any(answer.constrained for answer in answers)


def test_the_probe_does_not_name_its_answer() -> None:
    with json_server() as server:
        assert model(server).constrained
    (probe,) = server.probes
    word = probe["response_format"]["json_schema"]["schema"]["properties"]["capital"]["enum"][0]
    assert word not in json.dumps(probe["messages"])


def test_a_server_that_refuses_schemas_is_asked_without() -> None:
    def refuses(index: int, body: dict[str, Any]) -> Step:
        return Status(400) if "response_format" in body else Say("free text")

    with json_server(JsonServer(refuses, probe=refuses)) as server:
        answer = model(server).answer(asked(1, schema=SCHEMA))[0]
    assert (answer.text, answer.constrained, answer.error) == ("free text", False, "")


@pytest.mark.parametrize("text", ["free text", "{}", '{"flag": "safe", "more": 1}', "[]"])
def test_an_answer_off_the_schema_is_not_called_constrained(text: str) -> None:
    with json_server(JsonServer(lambda *_: Say(text))) as server:
        vlm = model(server)
        assert vlm.constrained
        assert not vlm.answer(asked(1, schema=SCHEMA))[0].constrained


@pytest.mark.parametrize("reason", ["length", None, "abort", "tool_calls"])
def test_only_an_answer_that_stopped_by_itself_is_finished(reason: str | None) -> None:
    with json_server(JsonServer(lambda *_: Say('{"flag": "safe"}', reason))) as server:
        answer = model(server).answer(asked(1, schema=SCHEMA))[0]
    assert not answer.finished


def test_answers_stand_in_the_order_of_the_requests() -> None:
    answered = [threading.Event() for _ in range(8)]

    def last_first(_: int, body: dict[str, Any]) -> Step:
        number = int(question(body).split()[1])
        if number + 1 < len(answered):
            assert answered[number + 1].wait(PATIENCE)
        answered[number].set()
        return Say(question(body))

    with json_server(JsonServer(last_first)) as server:
        answers = model(server, concurrency=8).answer(asked(8))
    assert [answer.text for answer in answers] == [f"question {n}" for n in range(8)]


def test_as_many_requests_are_under_way_as_concurrency_says_and_no_more() -> None:
    one_too_many = threading.Event()

    def stay(_: int, body: dict[str, Any]) -> Step:
        if server.most_parallel > 4:
            one_too_many.set()
        one_too_many.wait(0.3)  # long enough for a fifth to come, were it sent
        return Say(question(body))

    with json_server(JsonServer(stay)) as server:
        vlm = model(server, concurrency=4)
        assert vlm.constrained
        answers: list[str] = []
        callers = [
            threading.Thread(target=lambda: answers.extend(a.text for a in vlm.answer(asked(6))))
            for _ in range(2)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(answers) == 12
    assert server.most_parallel == 4


def test_a_redirect_is_not_followed() -> None:
    with json_server() as other:
        away = Status(307, {"location": f"{other.base_url}/chat/completions"})
        with json_server(JsonServer(lambda *_: away)) as server:
            answer = model(server).answer(asked(1))[0]
    assert answer.error == "HTTP 307"
    assert not other.questions


def test_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with json_server() as server:
        assert model(server).answer(asked(1))[0].error == ""


def test_the_picture_goes_with_the_first_question_of_a_conversation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    request = ChatRequest(
        prompt="mend it", system="be brief", image=pixels, history=(("look", "{oops"),)
    )
    with json_server() as server:
        vlm = model(server, image_format="PNG", extra_body={"top_k": 1})
        assert vlm.answer([request])[0].text == "mend it"
    (body,) = server.questions
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant", "user"]
    image, text = body["messages"][1]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "look"}
    assert body["top_k"] == 1
    received = image_of(body)
    assert received is not None
    assert np.array_equal(np.asarray(received), pixels)


def test_naming_the_class_loads_neither_openai_nor_torch() -> None:
    code = (
        "import sys, unsafe2safe.backends.server as s\n"
        "s.ServerModel(name='a', model='b', base_url='http://localhost/v1')\n"
        "print([m for m in ('openai', 'torch', 'httpx2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
