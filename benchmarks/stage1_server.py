"""The server backend with 16 requests under way against 1; prints the ratio of one run.

    python benchmarks/stage1_server.py

The server answers each request after a fixed time, as one with room for all of them would.
"""

from __future__ import annotations

import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from backends.json_server import JsonServer, Step, keeps_schemas
from backends.servers import json_server

from unsafe2safe.backends.base import ChatRequest
from unsafe2safe.backends.server import ServerModel
from unsafe2safe.data.decode import decode_bytes

LATENCY = 0.25
REQUESTS = 64
SCHEMA = {
    "type": "object",
    "properties": {"public_caption": {"type": "string", "minLength": 200, "maxLength": 400}},
    "required": ["public_caption"],
    "additionalProperties": False,
}


def answers_late(index: int, body: dict[str, Any]) -> Step:
    time.sleep(LATENCY)
    return keeps_schemas(index, body)


def seconds(base_url: str, concurrency: int, requests: list[ChatRequest]) -> float:
    model = ServerModel(name="server", model="m", base_url=base_url, concurrency=concurrency)
    assert model.constrained  # probed before the clock starts
    start = time.perf_counter()
    answers = model.answer(requests)
    taken = time.perf_counter() - start
    assert all(answer.finished and answer.constrained for answer in answers)
    return taken


def main() -> None:
    photos = files("unsafe2safe") / "assets" / "photos"
    photo = decode_bytes((photos / "astronaut.jpg").read_bytes(), "astronaut.jpg").pixels
    requests = [
        ChatRequest(prompt=f"image {index}", image=photo, schema=SCHEMA)
        for index in range(REQUESTS)
    ]
    with json_server(JsonServer(answers_late)) as server:
        one = seconds(server.base_url, 1, requests)
        many = seconds(server.base_url, 16, requests)
    overhead = (one / REQUESTS - LATENCY) * 1000
    print(f"{REQUESTS} requests with a photograph, {LATENCY * 1000:.0f} ms each at the server")
    print(f"concurrency 1: {one:.2f} s ({overhead:.1f} ms per request beyond the server's)")
    print(f"concurrency 16: {many:.2f} s")
    print(f"ratio 16 against 1: {one / many:.1f}x")


if __name__ == "__main__":
    main()
