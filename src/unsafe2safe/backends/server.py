"""Any OpenAI-compatible server: vLLM, SGLang, ``transformers serve`` and the like."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from unsafe2safe.backends.base import ChatAnswer, ChatModel, ChatRequest
from unsafe2safe.backends.server_connection import Connection, ServerSettings
from unsafe2safe.backends.server_requests import ImageFormat
from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import ConfigError, UsageError


@component
class ServerModel(ChatModel):
    """A model behind ``/v1/chat/completions``. Probed on the first use.

    The key is read from the environment and held by the client alone, so that it is in no
    configuration, no log and no ``repr``.
    """

    batch_size: int = Field(
        default=64, ge=1, description="Requests handed over together; at least `concurrency`."
    )
    base_url: str = Field(
        description="Address of the API, for example http://localhost:8000/v1.",
    )
    api_key_env: str = Field(
        default="", description="Environment variable that holds the key; empty: none needed."
    )
    concurrency: int = Field(default=16, ge=1, le=1000, description="Requests under way at once.")
    max_retries: int = Field(
        default=5, ge=0, description="Further tries after a lost or refused request."
    )
    backoff: float = Field(
        default=1.0,
        ge=0,
        description="Seconds before the first retry; doubled each time, with jitter.",
    )
    timeout: float = Field(
        default=300.0, gt=0, description="Seconds that a server may be silent on one request."
    )
    requests_per_minute: float | None = Field(
        default=None, gt=0, description="Rate limit, retries included; null: none."
    )
    image_long_side: int = Field(
        default=1280, ge=32, description="Images are sent with at most this long a side, pixels."
    )
    image_format: ImageFormat = Field(
        default="JPEG", description="JPEG, or PNG for lossless images."
    )
    image_quality: int = Field(default=92, ge=1, le=100, description="JPEG quality of sent images.")
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Further fields of each request, as the server documents them.",
    )

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if "@" in parts.netloc or parts.query or parts.fragment:
            # A ConfigError is told without the value, which holds a secret.
            raise ConfigError(
                "base_url holds a user, a password or a query: put the key into an environment "
                "variable and name that in api_key_env"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no http:// or https:// address")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _name_of_a_variable(cls, value: str) -> str:
        if not re.fullmatch(r"([A-Z][A-Z0-9_]*)?", value):
            raise ConfigError(
                "api_key_env names an environment variable (capitals, digits, _), it never holds "
                "the key itself"
            )
        return value

    @property
    def constrained(self) -> bool:
        """Whether the server enforces schemas, as its probe showed; probes on the first use."""
        return self._connection.constrained

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """One answer per request, in order. A request that fails for good has ``error`` set.

        Raises:
            UsageError: the server cannot be used (on probing), or is gone.
        """
        if not requests:
            return []
        try:
            return self._connection.answer(requests)
        except BaseException:
            # Threads that still wait are told to give up; a later call connects anew.
            connection = self.__dict__.pop("_connection", None)
            if connection is not None:
                connection.close()
            raise

    @cached_property
    def _connection(self) -> Connection:
        if importlib.util.find_spec("openai") is None:
            raise UsageError("a server needs the openai package: pip install 'unsafe2safe[server]'")
        settings = ServerSettings(
            base_url=self.base_url,
            model=self.model,
            concurrency=self.concurrency,
            max_retries=self.max_retries,
            backoff=self.backoff,
            timeout=self.timeout,
            requests_per_minute=self.requests_per_minute,
            image_long_side=self.image_long_side,
            image_format=self.image_format,
            image_quality=self.image_quality,
            extra_body=self.extra_body,
        )
        return Connection(settings, self._api_key())

    def _api_key(self) -> str:
        if not self.api_key_env:
            return ""
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UsageError(f"api_key_env={self.api_key_env}: no such environment variable is set")
        return key
