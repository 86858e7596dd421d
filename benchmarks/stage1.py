"""What Stage 1 costs beyond its models.

python benchmarks/stage1.py             # all of it
python benchmarks/stage1.py pipeline    # time and memory per image with a null backend; resuming
python benchmarks/stage1.py passes      # one look against the paper's two; batches of 8 against 1
python benchmarks/stage1.py server      # 16 requests under way against 1
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = REPOSITORY / "tests"
sys.path.insert(0, str(TESTS))

FEW, MANY = 1_000, 100_064  # the last unit of the many is half full
MOST_MS_PER_IMAGE = 2.0
MOST_MEMORY_GROWTH = 1.25
MOST_SECONDS_TO_RESUME = 3.0
LEAST_SINGLE_GAIN = 1.4  # at batch 8
LEAST_BATCH_GAIN = 1.3  # of two CPU cores; a GPU gains far more
LEAST_CONCURRENT_GAIN = 8.0
CAPTION_TOKENS, FLAG_TOKENS = 96, 24
ROUNDS = 3
SERVER_SECONDS = 0.1  # that the server takes for an answer, however many it works on


def child(rows: int, root: Path) -> None:
    """Run the pipeline on ``rows`` images without models; print time and memory as JSON."""
    import null_components

    from unsafe2safe import api

    first: list[float] = []
    describe = null_components.NullStage1.describe

    def timed(self: null_components.NullStage1, *arguments: object) -> object:
        if not first:
            first.append(time.time())
        return describe(self, *arguments)  # type: ignore[arg-type]

    null_components.NullStage1.describe = timed  # type: ignore[method-assign,assignment]
    begin = time.perf_counter()
    result = api.generate_triplets(
        *null_components.NULL,
        f"+dataset.count={rows}",
        f"paths.private={root / 'private'}",
        f"output_dir={root / str(rows)}",
    )
    figures = {
        "seconds": time.perf_counter() - begin,
        "first_image_at": first[0],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "images": result.counts["images"],
    }
    print(json.dumps(figures))


def pipeline() -> bool:
    """Time and memory per image, and how soon a large run goes on; whether all bounds hold."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        few, many = _measured(FEW, root), _measured(MANY, root)
        run = root / str(MANY)
        last = max((run / "triplets").iterdir())
        last.unlink()
        started = time.time()
        resumed = _measured(MANY, root)
    per_image = 1000 * (many["seconds"] - few["seconds"]) / (MANY - FEW)
    growth = many["peak_mb"] / few["peak_mb"]
    per_row = 1e6 * (many["peak_mb"] - few["peak_mb"]) / (MANY - FEW)
    resume = resumed["first_image_at"] - started
    return all(
        [
            _told("pipeline beyond the model calls", per_image, MOST_MS_PER_IMAGE, "ms/image"),
            _told(
                f"peak memory, {MANY} against {FEW} images ({many['peak_mb']:.0f} MB against "
                f"{few['peak_mb']:.0f} MB, {per_row:.0f} B/image)",
                growth,
                MOST_MEMORY_GROWTH,
                "x",
            ),
            _told(
                f"start to first new image, {MANY // 64 * 64} rows finished",
                resume,
                MOST_SECONDS_TO_RESUME,
                "s",
            ),
        ]
    )


def passes() -> bool:
    """A small random-weight VLM on eight photographs: passes against each other, and batches."""
    from small_vlm import build

    from unsafe2safe.backends.transformers_vlm import TransformersVlm
    from unsafe2safe.data.decode import decode_file
    from unsafe2safe.data.samples import photos_folder
    from unsafe2safe.stage1.passes import Passes, View, Viewer
    from unsafe2safe.stage1.prompting import Questions

    photos = sorted(photos_folder().glob("*.jpg"))[:8]
    views = [View(path.name, decode_file(path, path.name).pixels) for path in photos]
    kinds: tuple[Passes, ...] = ("single", "paper")
    seconds: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        prompts = [Questions(None).ask(name, None, "") for name in ("single", "caption", "flag")]
        model = str(build(Path(folder), prompts))
        viewers = {
            (kind, size): Viewer(
                TransformersVlm(name="small", model=model, batch_size=size),
                Questions(None), kind, CAPTION_TOKENS, FLAG_TOKENS, 0, seed=0,
            )
            for kind in kinds
            for size in (1, 8)
        }  # fmt: skip
        for (_, size), viewer in viewers.items():
            viewer.look(views[:size])  # loads the model, compiles the grammar
        for _ in range(ROUNDS):  # in turn, so that a busy moment of the machine meets all
            for key, viewer in viewers.items():
                begin = time.perf_counter()
                viewer.look(views)
                taken = time.perf_counter() - begin
                seconds[key] = min(taken, seconds.get(key, taken))
    for (kind, size), taken in seconds.items():
        print(f"  {kind}, batch {size}: {1000 * taken / len(views):.0f} ms/image")
    print(f"single against paper passes, batch 1: "
          f"{seconds['paper', 1] / seconds['single', 1]:.2f} x")  # fmt: skip
    return all(
        [
            _told_least(
                "single against paper passes, batch 8",
                seconds["paper", 8] / seconds["single", 8],
                LEAST_SINGLE_GAIN,
            ),
            _told_least(
                "single pass, batch 8 against 1",
                seconds["single", 1] / seconds["single", 8],
                LEAST_BATCH_GAIN,
            ),
        ]
    )


def server() -> bool:
    """The server backend on a loopback server that takes its time for each answer."""
    import numpy as np
    from backends.json_server import JsonServer, keeps_schemas
    from backends.servers import json_server

    from unsafe2safe.backends.base import ChatRequest
    from unsafe2safe.backends.server import ServerModel

    def slow(index: int, body: dict[str, Any]) -> Any:
        time.sleep(SERVER_SECONDS)
        return keeps_schemas(index, body)

    image = np.zeros((448, 448, 3), np.uint8)
    requests = [ChatRequest(prompt=f"What is in picture {number}?", image=image)
                for number in range(64)]  # fmt: skip
    seconds = {}
    with json_server(JsonServer(slow)) as running:
        for concurrency in (1, 16):
            model = ServerModel(
                name="loopback", model="scripted", base_url=running.base_url,
                concurrency=concurrency, batch_size=64,
            )  # fmt: skip
            model.answer(requests[:1])  # probes
            begin = time.perf_counter()
            model.answer(requests)
            seconds[concurrency] = time.perf_counter() - begin
    gain = seconds[1] / seconds[16]
    return _told_least("server, 16 requests under way against 1", gain, LEAST_CONCURRENT_GAIN)


def _measured(rows: int, root: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(rows), "--root", str(root)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _told(what: str, value: float, bound: float, unit: str) -> bool:
    """Print one figure beside its bound (an upper one)."""
    holds = value <= bound
    print(f"{what}: {value:.2f} {unit} (at most {bound:g}){'' if holds else '  MISSED'}")
    return holds


def _told_least(what: str, value: float, bound: float) -> bool:
    """Print one ratio beside its lower bound."""
    holds = value >= bound
    print(f"{what}: {value:.2f} x (at least {bound:g}){'' if holds else '  MISSED'}")
    return holds


PARTS: dict[str, Callable[[], bool]] = {"pipeline": pipeline, "passes": passes, "server": server}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child, arguments.root)
        return
    results = [PARTS[name]() for name in arguments.parts or PARTS]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
