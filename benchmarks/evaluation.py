"""What it saves to look at each picture once.

    python benchmarks/evaluation.py speed [PICTURES]   # 24
    python benchmarks/evaluation.py flat [FEW] [MANY] [METRICS]  # 200 5000 default,sets

``speed`` measures edited photographs with the default metrics three ways, on the same processor in
the same run: image by image as scripts around separate metrics do it (each metric decodes its own
pictures and calls its own models, the perceptual network is built for each pair; the masks are
given to it for nothing), by ``evaluate.py`` for the first time, and by ``evaluate.py`` on other
edits of the same originals. All three must find the same values.

``flat`` evaluates few and many small pictures, each in a process of its own, and compares seconds
an image and peak memory.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unsafe2safe import api
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.evaluation.results import Evaluation
from unsafe2safe.jobs.evaluate_inputs import folders_work
from unsafe2safe.metrics.base import Metric, PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision import perception as seeing
from unsafe2safe.vision.models import session
from unsafe2safe.vision.perception import Perception

_LONG_SIDE = 512
FIRST, SECOND = 1.2, 1.8  # at least so many times as fast as image by image


def photographs(folder: Path, count: int) -> None:
    """``count`` originals: the sample photographs, then their mirror images and crops."""
    folder.mkdir(parents=True)
    sources = sorted(photos_folder().glob("*.jpg"))
    for number in range(count):
        pixels = decode_file(sources[number % len(sources)], "sample").pixels
        turn = number // len(sources)
        if turn % 2:
            pixels = pixels[:, ::-1]
        cut = turn // 2 * 8
        pixels = pixels[cut:, cut:]
        scale = min(1.0, _LONG_SIDE / max(pixels.shape[:2]))
        sides = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        shrunk = cv2.resize(np.ascontiguousarray(pixels), sides, interpolation=cv2.INTER_AREA)
        Image.fromarray(shrunk).save(folder / f"{number:04d}.png")


def edit(originals: Path, edited: Path, sigma: float) -> None:
    """Blur the upper half of each picture."""
    edited.mkdir()
    for path in sorted(originals.iterdir()):
        pixels = np.asarray(Image.open(path)).copy()
        half = pixels.shape[0] // 2
        pixels[:half] = cv2.GaussianBlur(pixels[:half], (0, 0), sigma)
        Image.fromarray(pixels).save(edited / path.name)


def ours(root: Path, edited: str) -> tuple[float, Path]:
    """Seconds of ``evaluate.py`` on a folder of edits, and its run."""
    begin = time.perf_counter()
    result = api.evaluate(*overrides(root, edited))
    seconds = time.perf_counter() - begin
    assert result.output_dir is not None
    return seconds, result.output_dir


def overrides(root: Path, edited: str) -> list[str]:
    return [
        f"originals={root / 'originals'}",
        f"edited={root / edited}",
        f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}",
        "references=[]",
        "engine.threads=1",
    ]


def image_by_image(root: Path, edited: str) -> tuple[float, dict[str, float]]:
    """Seconds that each metric takes on its own, one after the other, and their values."""
    config = load("evaluate", overrides(root, edited))
    assert isinstance(config, Evaluate)
    work = folders_work(config)
    perception = Perception(config.vision, 1)
    masks = {
        image_id: work.subjects.mask(ImageFeatures(pixels(work, image_id), perception), None)
        for image_id in work.subjects.image_ids
    }
    values: dict[str, float] = {}
    begin = time.perf_counter()
    for name, settings in config.metrics.items():
        metric = build(settings, f"metrics.{name}", Metric)  # type: ignore[type-abstract]
        if metric.unavailable():
            continue
        scores = []
        for image_id, mask in masks.items():
            session.cache_clear() if "lpips" in name else None
            before = ImageFeatures(pixels(work, image_id), perception)
            after = ImageFeatures(work.rows[0].edited(image_id, before.pixels, mask), perception)
            if "lpips" in name:
                perception.__dict__.pop("perceptual", None)
            scores += metric.measure([PairSample(image_id, before, after, mask)])
        result = metric.aggregate(scores, config.bootstrap, np.random.default_rng(0))
        if result.value is not None:
            values[name] = result.value
    return time.perf_counter() - begin, values


def pixels(work: Any, image_id: str) -> Any:
    return work.subjects.source.decode(work.subjects.record(image_id)).pixels


@contextmanager
def shares() -> Iterator[Counter[str]]:
    """Seconds spent in decoding, in detectors and embedders, within the block."""
    spent: Counter[str] = Counter()
    watched: list[tuple[Any, str, str]] = [
        (seeing.FaceDetector, "detect", "faces"),
        (seeing.TextReader, "read", "texts"),
        (seeing.FaceIdentity, "embed", "identities"),
        (seeing.ShiftTolerantLpips, "distance", "perceptual distance"),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]

    def timed(call: Callable[..., Any], label: str) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                spent[label] += time.perf_counter() - begin

        return run

    for owner, name, label in watched:
        setattr(owner, name, timed(getattr(owner, name), label))
    try:
        yield spent
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)


def speed(count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photographs(root / "originals", count)
        edit(root / "originals", root / "edited", 6.0)
        edit(root / "originals", root / "other", 12.0)
        warm = Perception(load("evaluate", []).vision, 1)  # models are loaded before any clock runs
        some = ImageFeatures(np.asarray(Image.open(root / "originals" / "0000.png")), warm)
        _ = some.embeddings, some.lines, some.efficientnet
        warm.perceptual.distance([some.pixels], [some.pixels[::-1]])
        with shares() as first_spent:
            first, run = ours(root, "edited")
        with shares() as second_spent:
            second, _ = ours(root, "other")
        alone, values = image_by_image(root, "edited")
        figures = Evaluation.read(run / "metrics.json").rows[0].metrics
        for name, value in values.items():
            found = figures[name].value
            assert found is not None
            assert abs(found - value) < 1e-6, (name, found, value)
        print(f"{count} pairs, {len(figures)} metrics, one thread a model")
        print(f"image by image    {alone / count:7.3f} s a pair")
        for name, seconds, spent, bar in (
            ("first run", first, first_spent, FIRST),
            ("same originals", second, second_spent, SECOND),
        ):
            told = ", ".join(f"{label} {took / seconds:.0%}" for label, took in spent.most_common())
            ratio = alone / seconds
            print(f"{name:17} {seconds / count:7.3f} s a pair, {ratio:.2f} x (bar {bar}): {told}")
    return 0 if alone / first >= FIRST and alone / second >= SECOND else 1


def flat(few: int, many: int, metrics: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        measured = []
        for count in (few, many):
            line = [sys.executable, __file__, "one", str(count), str(Path(folder) / str(count))]
            line.append(metrics)
            done = subprocess.run(line, check=True, capture_output=True, text=True, env=os.environ)
            seconds, memory = map(float, done.stdout.split()[-2:])
            measured.append((seconds, memory))
            print(f"{count:6} images: {1000 * seconds:.1f} ms an image, peak {memory:.0f} MB")
    (slow, small), (fast, large) = measured
    print(f"time an image {fast / slow:.2f} x, peak memory {large / small:.2f} x")
    return 0 if fast / slow < 1.1 and large / small < 1.1 else 1


def one(count: int, root: Path, metrics: str) -> None:
    """Evaluate ``count`` scenes; print seconds an image and the peak of this process."""
    source = SyntheticSource(name="synthetic", size=count, seed=1)
    for name in ("originals", "edited"):
        (root / name).mkdir(parents=True)
    for record in source.records():
        image = source.decode(record).pixels
        Image.fromarray(image).save(root / "originals" / record.image_id)
        Image.fromarray(image // 2).save(root / "edited" / record.image_id)
    # Looking for faces at its usual size takes half a second a picture, whatever their number.
    light = ["face", "text"]
    small = ["mask_categories=[plate]", "vision.face_long_side=64", f"metrics=[{metrics}]"]
    config = load("evaluate", [*overrides(root, "edited"), *small])
    kept = {n: s for n, s in config.metrics.items() if not any(word in n for word in light)}
    from unsafe2safe.jobs import evaluate

    begin = time.perf_counter()
    evaluate.run(config.model_copy(update={"metrics": kept}))
    seconds = (time.perf_counter() - begin) / count
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    what, *given = sys.argv[1:] or ["speed"]
    if what == "one":
        one(int(given[0]), Path(given[1]), given[2])
    elif what == "flat":
        few, many, names = (*given, *("200", "5000", "default,sets")[len(given) :])
        sys.exit(flat(int(few), int(many), names))
    else:
        sys.exit(speed(int(given[0]) if given else 24))
