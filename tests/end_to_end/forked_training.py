"""Real processes of train.py that begin with its imports done, and write down each sample's loss.

A server of :mod:`multiprocessing` imports once what a training does, and each process forks from
it before torch has started a thread.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a training imports on its way, which a forked process then finds there.
_IMPORTED = (
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix",
    "peft",
    "pytorch_lightning",
    "unsafe2safe.editors.tiny",
    "unsafe2safe.jobs.command_line",
    "unsafe2safe.jobs.train",
    "unsafe2safe.tracking.csv_sink",
    "unsafe2safe.training.editor_recipe",
)
_LAUNCHED = {"TORCHELASTIC_RUN_ID": "chain", "MASTER_ADDR": "127.0.0.1"}


@dataclass(frozen=True)
class Training:
    """``train.py`` with ``overrides``. ``losses`` gets a line for each sample that is trained on,
    ``said`` what is printed. At the checkpoint of step ``dies_writing`` it kills itself with half
    of the file written."""

    overrides: tuple[str, ...]
    losses: Path
    said: Path
    dies_writing: int | None = None


def start(training: Training, devices: int = 1) -> list[Any]:
    """The processes of a training, which torchrun would start alike where there are several."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED])
    places: list[dict[str, str]] = [{}]
    if devices > 1:
        port = str(_free_port())
        places = [
            {
                **_LAUNCHED, "MASTER_PORT": port, "WORLD_SIZE": str(devices), "RANK": str(rank),
                "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(devices),
            }
            for rank in range(devices)
        ]  # fmt: skip
    processes = [context.Process(target=_run, args=(training, place)) for place in places]
    for process in processes:
        process.start()
    return processes


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def losses_by_sample(path: Path) -> dict[tuple[str, int], list[float]]:
    """All losses of each (sample, visit), in the order in which they were trained on."""
    found: dict[tuple[str, int], list[float]] = {}
    for line in path.read_text().splitlines():
        image_id, visit, loss = json.loads(line)
        found.setdefault((image_id, visit), []).append(loss)
    return found


def _run(training: Training, place: Mapping[str, str]) -> None:
    os.setsid()  # a keyboard's interrupt is pytest's
    said = os.open(training.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.environ.update(place)
    from unsafe2safe.jobs import command_line

    _record(training.losses)
    if training.dies_writing is not None:
        _die_writing(training.dies_writing)
    sys.argv = ["train.py", *training.overrides]
    command_line.main("train")


def _record(path: Path) -> None:
    """Write down the losses that each training step takes the mean of."""
    from unsafe2safe.training.editor_task import EditorTask
    from unsafe2safe.training.module import TaskModule

    loss, step = EditorTask.loss, TaskModule.training_step
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    last: list[Any] = []

    def losses_of(task: Any, *given: Any) -> Any:
        last[:] = [loss(task, *given)]
        return last[0]

    def recorded(module: Any, batch: Any, index: int) -> Any:
        mean = step(module, batch, index)
        rows = zip(batch.keys, last[0].tolist(), strict=True)
        lines = [json.dumps([key.image_id, key.visit, value]) + "\n" for key, value in rows]
        os.write(file, "".join(lines).encode())
        return mean

    EditorTask.loss, TaskModule.training_step = losses_of, recorded  # type: ignore[method-assign]


def _die_writing(step: int) -> None:
    import pytorch_lightning as pl

    save = pl.Trainer.save_checkpoint

    def half(trainer: Any, path: Any, *given: Any, **settings: Any) -> None:
        save(trainer, path, *given, **settings)
        if trainer.global_step >= step and trainer.is_global_zero:
            os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    pl.Trainer.save_checkpoint = half
