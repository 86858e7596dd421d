"""The key of a server: in the environment and in the request's header, and nowhere else."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest
from backends.json_server import JsonServer, Status
from backends.servers import json_server

from unsafe2safe.backends.base import ChatModel, ChatRequest
from unsafe2safe.backends.server import ServerModel
from unsafe2safe.core.config.components import build
from unsafe2safe.core.errors import ConfigError, UsageError

KEY = "sk-planted-4b1f77"
REQUEST = ChatRequest(prompt="planted question")


def model(base_url: str, **settings: Any) -> ServerModel:
    settings = {"api_key_env": "PLANTED_KEY", "backoff": 0.0, "max_retries": 1, **settings}
    return ServerModel(name="server", model="scripted", base_url=base_url, **settings)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)


def test_the_key_is_sent_and_seen_nowhere_else(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("", "openai", "httpx2", "httpcore2", "unsafe2safe"):
        caplog.set_level(logging.DEBUG, logger=name)
    steps = [Status(500), Status(400)]
    with json_server(JsonServer(lambda index, _: steps[index % 2], api_key=KEY)) as server:
        vlm = model(server.base_url)
        answers = vlm.answer([REQUEST] * 2)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert all(answer.error for answer in answers)
    written = capfd.readouterr()
    told = [repr(vlm), str(vlm), repr(answers), caplog.text, written.out, written.err]
    told += [repr(vars(record)) for record in caplog.records]
    assert caplog.records
    assert not any(KEY in text for text in told)
    assert not any("planted question" in text for text in told[2:])


def test_a_refused_key_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with json_server(JsonServer(api_key="another")) as server:
        with pytest.raises(UsageError, match="api_key_env") as caught:
            model(server.base_url).answer([REQUEST])
        assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_is_not_set_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANTED_KEY")
    with pytest.raises(UsageError, match="api_key_env=PLANTED_KEY"):
        model("http://127.0.0.1:9/v1").answer([REQUEST])


def test_no_other_key_or_name_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "mine-elsewhere")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/elsewhere")
    with json_server() as server:
        assert model(server.base_url, api_key_env="").answer([REQUEST])[0].error == ""
    assert "mine-elsewhere" not in repr(server.headers)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": f"http://user:{KEY}@localhost/v1"},
        {"base_url": f"http://localhost/v1?key={KEY}"},
        {"base_url": "http://localhost/v1", "api_key_env": KEY},
    ],
    ids=["password", "query", "key for a name"],
)
def test_a_key_in_the_configuration_is_refused_and_not_quoted(settings: dict[str, str]) -> None:
    target = {"_target_": "unsafe2safe.backends.server.ServerModel", "name": "a", "model": "b"}
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        build(target | settings, "stage1.vlm", ChatModel)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_an_address_that_is_none_is_named() -> None:
    settings = {
        "_target_": "unsafe2safe.backends.server.ServerModel",
        "name": "a", "model": "b", "base_url": "localhost:8000",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"stage1\.vlm\.base_url='localhost:8000'"):
        build(settings, "stage1.vlm", ChatModel)
