"""What happens when a server fails: retries, pace, errors of one request, the end of a run."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from backends.json_server import (
    PATIENCE,
    Body,
    Hang,
    JsonServer,
    Reset,
    Say,
    Script,
    Status,
    Step,
    first,
    keeps_schemas,
    on,
    question,
)
from backends.servers import asked, free_port, json_server, model

from unsafe2safe.backends import server_connection
from unsafe2safe.backends.base import ChatRequest
from unsafe2safe.backends.server import ServerModel
from unsafe2safe.backends.server_connection import Connection
from unsafe2safe.backends.server_pace import Pace
from unsafe2safe.core.errors import UsageError


@pytest.mark.parametrize(
    "fault",
    [
        *(Status(code) for code in (408, 409, 429, 500, 502, 503)),
        Reset(),
        Body(b"<html>busy</html>", "text/html"),
        Body(b'{"choices": []}'),
        Body(b'{"choices": [{"message": {"content": ["flag", "safe"]}}]}'),
        Body(b"\xff\xfe"),
    ],
    ids=repr,
)
def test_a_passing_fault_is_tried_again(fault: Step) -> None:
    with json_server(JsonServer(first(fault, fault))) as server:
        answer = model(server, max_retries=2).answer(asked(1))[0]
    assert (answer.text, answer.error) == ("question 0", "")
    assert len(server.questions) == 3


@pytest.mark.parametrize(
    ("fault", "tries", "reason"),
    [
        (Status(500), 3, "HTTP 500"),
        (Status(429), 3, "HTTP 429"),
        (Status(400), 1, "HTTP 400"),
        (Status(413), 1, "HTTP 413"),
        (Reset(), 3, "APIConnectionError"),
        (Body(b"garbage"), 3, "malformed completion"),
        (Say(""), 1, "empty answer"),
        (Say("I must not", "content_filter"), 1, "refused by the server"),
    ],
    ids=repr,
)
def test_one_failing_request_fails_alone_with_a_short_reason(
    fault: Step, tries: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with json_server(JsonServer(on("question 1", fault))) as server:
        answers = model(server, max_retries=2).answer(asked(3))
    assert [answer.error for answer in answers] == ["", reason, ""]
    assert [answer.finished for answer in answers] == [True, False, True]
    assert answers[1].text == ""
    assert [question(body) for body in server.questions].count("question 1") == tries
    assert "question 1" not in caplog.text


def test_a_server_that_hangs_on_one_request_costs_that_request_only() -> None:
    with json_server(JsonServer(on("question 0", Hang()))) as server:
        vlm = model(server, timeout=0.5, max_retries=1)
        hung = vlm.answer(asked(1))
        both = vlm.answer(asked(2))
    assert [answer.error for answer in hung] == ["APITimeoutError"]
    assert [answer.error for answer in both] == ["APITimeoutError", ""]


def test_a_request_that_cannot_be_sent_fails_alone() -> None:
    odd = ChatRequest(prompt="x", image=np.zeros((4, 4), dtype=np.uint8))
    with json_server() as server:
        answers = model(server).answer([odd, ChatRequest(prompt="\ud800"), *asked(1)])
    assert [bool(answer.error) for answer in answers] == [True, True, False]
    assert len(server.questions) == 1


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(server_connection, "Pace", functools.partial(Pace, clock=clock))
    monkeypatch.setattr(Connection, "_sleep", lambda _, seconds: clock.sleep(seconds))
    return clock


def test_retry_after_is_respected(clock: FakeClock) -> None:
    script = first(Status(429, {"retry-after": "7"}), Status(503, {"retry-after": "5"}))
    with json_server(JsonServer(script)) as server:
        assert model(server).answer(asked(1))[0].error == ""
    assert clock.now == pytest.approx(12)


def test_what_one_request_is_told_to_wait_all_others_wait(clock: FakeClock) -> None:
    with json_server(JsonServer(first(Status(429, {"retry-after": "7"})))) as server:
        answers = model(server, max_retries=0, concurrency=1).answer(asked(2))
    assert [answer.error for answer in answers] == ["HTTP 429", ""]
    assert clock.now == pytest.approx(7)


def test_backoff_doubles_with_jitter(clock: FakeClock) -> None:
    with json_server(JsonServer(first(*[Status(500)] * 4))) as server:
        assert model(server, backoff=1.0).answer(asked(1))[0].error == ""
    assert 7.5 <= clock.now <= 15  # 1 + 2 + 4 + 8, each less up to half


def test_the_rate_limit_counts_retries_and_the_probe(clock: FakeClock) -> None:
    with json_server(JsonServer(first(Status(500)))) as server:
        vlm = model(server, requests_per_minute=30, concurrency=1)
        assert [answer.error for answer in vlm.answer(asked(9))] == [""] * 9
    assert clock.now == pytest.approx(2.0 * 10)  # 11 requests, the first at once


def test_closing_gives_up_what_waits() -> None:
    refused = threading.Event()

    def refuse(*_: object) -> Step:
        refused.set()
        return Status(500)

    with json_server(JsonServer(refuse)) as server:
        vlm = model(server, backoff=1000.0, concurrency=1)
        answers: list[Any] = []
        caller = threading.Thread(target=lambda: answers.extend(vlm.answer(asked(3))))
        caller.start()
        assert refused.wait(PATIENCE)
        vlm._connection.close()
        caller.join(PATIENCE)
    assert [bool(answer.error) for answer in answers] == [True] * 3
    assert len(server.questions) == 1


def test_an_interrupted_program_does_not_wait_for_its_server() -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & ignores it
        "from unsafe2safe.backends.base import ChatRequest\n"
        "from unsafe2safe.backends.server import ServerModel\n"
        "model = ServerModel(name='a', model='b', base_url=sys.argv[1], timeout=1000)\n"
        "model.answer([ChatRequest(prompt=str(i)) for i in range(40)])\n"
    )
    asked_all = threading.Barrier(17)

    def hang(*_: object) -> Step:
        asked_all.wait(PATIENCE)
        return Hang()

    with json_server(JsonServer(hang)) as server:
        program = subprocess.Popen(
            [sys.executable, "-c", code, server.base_url], stderr=subprocess.PIPE
        )
        asked_all.wait(PATIENCE)
        program.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in program.communicate(timeout=PATIENCE)[1]


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    port = free_port()
    vlm = ServerModel(name="server", model="m", base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}.*base_url") as caught:
        vlm.answer(asked(1))
    assert "\n" not in str(caught.value)


def test_a_server_that_goes_away_ends_the_run_instead_of_failing_every_row() -> None:
    with json_server() as server:
        vlm = model(server, max_retries=1)
        assert vlm.answer(asked(1))[0].error == ""
    with pytest.raises(UsageError, match="goes on where it stopped"):
        vlm.answer(asked(3))


@pytest.mark.parametrize("code", [401, 429, 500])
def test_a_server_that_fails_all_ends_the_run_only_if_it_fails_the_probe_too(code: int) -> None:
    fails: Script = lambda *_: Status(code)  # noqa: E731
    with json_server(JsonServer(fails)) as server:
        vlm = model(server, max_retries=0)
        assert [answer.error for answer in vlm.answer(asked(2))] == [f"HTTP {code}"] * 2
        server.probe = fails
        with pytest.raises(UsageError, match=f"HTTP {code}"):
            vlm.answer(asked(2))
        server.probe = server.script = keeps_schemas
        assert [answer.error for answer in vlm.answer(asked(2))] == ["", ""]


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_a_server_that_refuses_the_probe_is_a_usage_error(code: int) -> None:
    with (
        json_server(JsonServer(probe=lambda *_: Status(code))) as server,
        pytest.raises(UsageError, match=f"HTTP {code}") as caught,
    ):
        model(server, max_retries=0).answer(asked(1))
    assert "France" not in str(caught.value)
    assert "\n" not in str(caught.value)
