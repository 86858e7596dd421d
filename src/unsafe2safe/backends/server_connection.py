"""A live connection to one OpenAI-compatible server: threads, retries, and the probe.

The server's own messages may quote the request, so nothing of them is ever kept: a failure is a
status code or the name of an exception's type.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from unsafe2safe.backends.base import ChatAnswer, ChatRequest
from unsafe2safe.backends.server_pace import Pace, backoff_delay, retry_after
from unsafe2safe.backends.server_requests import (
    PROBE,
    ImageFormat,
    data_url,
    messages,
    passes_probe,
    read_answer,
    response_format,
)
from unsafe2safe.core.errors import UsageError

_RETRIED = frozenset({408, 409, 425, 429})  # and every 5xx
_NEVER_CONNECTED = frozenset(
    {"ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"}
)
_CONNECT_TIMEOUT = 10.0
_NOT_SENT = -1
_LARGEST_SEED = 2**31 - 1  # some servers hold seeds in 32 bits


@dataclass(frozen=True)
class ServerSettings:
    """What a connection needs to know; the key is in the client alone."""

    base_url: str
    model: str
    concurrency: int
    max_retries: int
    backoff: float
    timeout: float
    requests_per_minute: float | None
    image_long_side: int
    image_format: ImageFormat
    image_quality: int
    extra_body: dict[str, Any]

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc


@dataclass(frozen=True)
class Reply:
    """An answer and how it came: ``status`` is 0 where no HTTP answer came."""

    answer: ChatAnswer
    status: int = 200
    transient: bool = False
    wait: float = 0.0


class _ClosedError(Exception):
    """The connection was closed before a request had its turn."""


class Connection:
    """At most ``concurrency`` requests are under way at once; probed when it is made.

    Raises:
        UsageError: the server cannot be reached or does not answer a plain question.
    """

    def __init__(self, settings: ServerSettings, api_key: str) -> None:
        self._settings = settings
        self._closed = threading.Event()
        self._pace = Pace(settings.requests_per_minute, self._sleep)
        self._client = _client(settings, api_key)
        self._slots = threading.BoundedSemaphore(settings.concurrency)
        self._accepts_schema = True
        self.constrained = False
        try:
            self._check_reachable()
            self._probe()
        except BaseException:
            self.close()
            raise

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """One answer per request, in order.

        Raises:
            UsageError: every request failed and the server answers no plain question any more. The
                run ends and can go on later, where it would else fail all of its rows.
        """
        replies = self._ask_all(requests)
        if replies and all(reply.status not in (200, _NOT_SENT) for reply in replies):
            self._check_reachable()
            self._probe()
        return [reply.answer for reply in replies]

    def _ask_all(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        waiting: SimpleQueue[int] = SimpleQueue()
        for index in range(len(requests)):
            waiting.put(index)

        def work() -> None:
            with suppress(Empty):
                while True:
                    index = waiting.get_nowait()
                    with self._slots:
                        replies[index] = self._ask(requests[index])

        # Daemons, not an executor's threads: an interrupted program does not wait for servers.
        workers = [
            threading.Thread(target=work, name="server", daemon=True)
            for _ in range(min(self._settings.concurrency, len(requests)))
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return [replies[index] for index in range(len(requests))]

    def close(self) -> None:
        """Give up what waits; requests under way end with their time limit at the latest."""
        self._closed.set()
        self._client.close()

    def _probe(self) -> None:
        """Ask once with a schema whose only legal answer no model would give by itself.

        The status proves nothing: ``transformers serve`` answers 200 and ignores the schema.
        """
        reply = self._ask(PROBE)
        if reply.status in (400, 422):  # a server that refuses schemas may answer without
            self._accepts_schema = False
            reply = self._ask(PROBE)
        error = reply.answer.error
        if reply.status != 200 or (error and reply.transient):
            raise UsageError(f"the server at {self._settings.host} {self._advice(reply)}")
        self.constrained = self._accepts_schema and passes_probe(reply.answer)

    def _advice(self, reply: Reply) -> str:
        said = f"gave {reply.answer.error} to a plain question"
        if reply.status in (401, 403):
            return f"{said}: api_key_env must name the environment variable that holds its key"
        if reply.status in (400, 404, 422):
            return (
                f"{said}: does it serve model={self._settings.model}, does base_url end as it "
                "should (mostly in /v1), does it know each key of extra_body?"
            )
        return f"{said}: see its own log"

    def _check_reachable(self) -> None:
        """Any HTTP answer will do, and so will silence after a connection.

        On a connection of its own: ``transformers serve`` without a hub cache fails on ``/models``
        and resets the connection, which the next request would otherwise have been sent on.
        """
        from openai import APIConnectionError, OpenAIError

        try:
            self._client.models.with_raw_response.list(
                timeout=_CONNECT_TIMEOUT, extra_headers={"Connection": "close"}
            )
        except APIConnectionError as error:
            cause = type(error.__cause__).__name__
            if cause in _NEVER_CONNECTED:
                raise UsageError(
                    f"no server answers at {self._settings.host} ({cause}): start it or set "
                    "base_url; the same command goes on where it stopped"
                ) from None
        except (OpenAIError, ValueError):
            pass

    def _ask(self, request: ChatRequest) -> Reply:
        """One request with its retries. Never raises but for a fault of ours in the thread."""
        try:
            self._sleep(0.0)
            body = self._body(request)
            for retry in range(self._settings.max_retries + 1):
                self._pace.wait()
                reply = self._post(body, request)
                if reply.wait:
                    self._pace.hold(reply.wait)
                if not reply.transient or retry == self._settings.max_retries:
                    break
                self._sleep(max(reply.wait, backoff_delay(retry, self._settings.backoff)))
        except Exception as error:  # one bad request never ends a run
            return _failed(type(error).__name__, status=_NOT_SENT)
        return reply

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        settings = self._settings
        image = request.image
        url = ""
        if image is not None:
            url = data_url(
                image, settings.image_long_side, settings.image_format, settings.image_quality
            )
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": messages(request, url),
            "max_tokens": request.max_new_tokens,
            "temperature": 0.0,
            "seed": request.seed % _LARGEST_SEED,
        }
        if request.schema is not None and self._accepts_schema:
            body["response_format"] = response_format(request.schema)
        if settings.extra_body:
            body["extra_body"] = settings.extra_body
        return body

    def _post(self, body: dict[str, Any], request: ChatRequest) -> Reply:
        from openai import APIConnectionError, APIStatusError

        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
        except APIStatusError as error:
            status = error.status_code
            return _failed(
                f"HTTP {status}",
                status=status,
                transient=status in _RETRIED or status >= 500,
                wait=retry_after(error.response.headers),
            )
        except APIConnectionError as error:
            return _failed(type(error).__name__, status=0, transient=True)
        try:
            return Reply(read_answer(raw.text, request.schema, self.constrained))
        except ValueError:
            return _failed("malformed completion", status=200, transient=True)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _ClosedError


def _failed(reason: str, *, status: int, transient: bool = False, wait: float = 0.0) -> Reply:
    return Reply(ChatAnswer("", finished=False, error=reason), status, transient, wait)


def _client(settings: ServerSettings, api_key: str) -> Any:
    from openai import DefaultHttpxClient, OpenAI

    # A redirect would carry private images to a host that nobody named. A proxy cannot know what
    # this machine calls localhost.
    http = DefaultHttpxClient(
        follow_redirects=False, trust_env=not _is_loopback(urlsplit(settings.base_url).hostname)
    )
    client = OpenAI(
        base_url=settings.base_url,
        api_key=api_key or "none",  # given, so that OPENAI_API_KEY never goes to another server
        timeout=settings.timeout,
        max_retries=0,  # ours count, pace and stop
        http_client=http,
    )
    client.organization = client.project = client.admin_api_key = None
    return client


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
