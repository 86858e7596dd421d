"""Servers on 127.0.0.1, as context managers; each yields an object with its ``base_url``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from backends.json_server import PATIENCE, JsonServer

from unsafe2safe.backends.base import ChatRequest
from unsafe2safe.backends.server import ServerModel

START_TIMEOUT = 120.0


def model(server: JsonServer, **settings: Any) -> ServerModel:
    """A client of ``server`` that tries again at once."""
    settings = {"backoff": 0.0, "timeout": PATIENCE, **settings}
    return ServerModel(name="server", model="scripted", base_url=server.base_url, **settings)


def asked(number: int, **settings: Any) -> list[ChatRequest]:
    return [ChatRequest(prompt=f"question {index}", **settings) for index in range(number)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def json_server(server: JsonServer | None = None) -> Iterator[JsonServer]:
    """``server`` (default: one that keeps schemas) in a thread of this process."""
    server = server or JsonServer()
    # With its protocol named, asyncio turns off Nagle's algorithm: else 40 ms are lost per answer.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    server.base_url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    running = uvicorn.Server(uvicorn.Config(server.app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        running.should_exit = running.force_exit = True
        thread.join(30)
        listening.close()


@dataclass(frozen=True)
class TransformersServe:
    """``model`` is the name by which the server knows the folder it was given."""

    base_url: str
    model: str


@contextmanager
def transformers_serve(model_dir: Path, log: Path | None = None) -> Iterator[TransformersServe]:
    """``transformers serve`` with the model saved in ``model_dir``, as its own process, offline."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    command = [
        str(program), "serve", str(model_dir), "--host", "127.0.0.1", "--port", str(port),
        "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    with (log or Path(os.devnull)).open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **offline}, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health")
            yield TransformersServe(f"http://127.0.0.1:{port}/v1", str(model_dir))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"transformers serve ended with {process.returncode}")
        try:
            with no_proxy.open(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(f"transformers serve did not start within {START_TIMEOUT:.0f} s")
