"""Killed ten times in a chain, a training trains on every visit as if nothing had been."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end.forked_training import Training, losses_by_sample, start
from training.make_pairs import World, make_world

from unsafe2safe.core.ledger import read_run
from unsafe2safe.tracking.csv_sink import read_rows

pytestmark = pytest.mark.slow
KILLS = 10
STEPS = 32
PAIRS = 7
PER_STEP = 4  # so that most steps end in the middle of an epoch
EVERY = 2
SETTINGS = (  # on the shipped base: a random one takes twenty times as long to make
    f"trainer.max_steps={STEPS}",
    f"trainer.checkpoint_every={EVERY}",
    "trainer.accelerator=cpu",
    "trainer.ema=0.9",
    "trainer.schedule=cosine",
    "objective.text_dropout=0.2",
    "objective.image_dropout=0.2",
    "task.flip=0.5",  # what is seen of a pair depends on the visit too
    "task.crop=0.8",
    "engine.threads=1",
)
_PATIENCE = 300.0  # seconds


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """For the server that all processes fork from."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("OPENBLAS_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), PAIRS)


@dataclass(frozen=True)
class Run:
    """One run folder, by however many processes it comes about."""

    world: World
    root: Path
    devices: int = 1

    @property
    def folder(self) -> Path:
        return self.root / "run"

    @property
    def losses(self) -> Path:
        return self.root / "losses"

    @property
    def said(self) -> Path:
        return self.root / "said"

    def start(self, dies_writing: int | None = None) -> list[Any]:
        dealt = (
            f"trainer.devices={self.devices}", f"trainer.batch_size={PER_STEP // self.devices}",
            f"output_dir={self.folder}",
        )  # fmt: skip
        overrides = (*self.world.overrides, *SETTINGS, *dealt)
        return start(Training(overrides, self.losses, self.said, dies_writing), self.devices)

    def finish(self) -> None:
        processes = self.start()
        for process in processes:
            process.join(_PATIENCE)
        assert [process.exitcode for process in processes] == [0] * self.devices, self.told()
        assert (read_run(self.folder) or {})["status"] == "complete"

    def told(self) -> str:
        return self.said.read_text()

    def logged(self) -> dict[int, float]:
        try:
            rows = read_rows(self.folder / "metrics.csv", ["loss", "learning_rate"])
            return {int(step): float(loss) for step, loss, _ in rows}
        except (OSError, ValueError):  # its last line is being written
            return {}

    def kept(self) -> int:
        """The step that a start goes on from."""
        found = (self.folder / "checkpoints").glob("step-*.ckpt")
        return max((int(path.stem.removeprefix("step-")) for path in found), default=0)


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(world, tmp_path_factory.mktemp("undisturbed"))
    run.finish()
    assert [len(values) for values in losses_by_sample(run.losses).values()] == (
        [1] * (STEPS * PER_STEP)
    )
    return run


def killed(run: Run, draw: random.Random, kind: str) -> None:
    """Start ``run`` and end all its processes with SIGKILL, at a drawn step not trained before."""
    before, more = max(run.logged(), default=0), draw.randint(1, 2)
    if kind == "while a checkpoint is written":
        processes = run.start(dies_writing=before + 1)
        awaited = processes[0]

        def moment() -> bool:
            return awaited.exitcode == -9

    else:
        processes = run.start()
        checkpoint = run.kept() + 1

        def moment() -> bool:
            if kind == "when a checkpoint is there":
                return run.kept() >= checkpoint
            return max(run.logged(), default=0) >= before + more

    draw.shuffle(processes)  # of two, either may be the first to go
    end = time.monotonic() + _PATIENCE
    while not moment():
        gone = [process.exitcode for process in processes if process.exitcode is not None]
        assert not gone or kind == "while a checkpoint is written", run.told()
        assert time.monotonic() < end, run.told()
        time.sleep(0.002)
    for process in processes:
        process.kill()
        process.join()
    assert -9 in [process.exitcode for process in processes], run.told()


@pytest.mark.parametrize("devices", [1, 2])
def test_ten_kills_in_a_chain_leave_every_loss_as_it_would_have_been(
    world: World, undisturbed: Run, tmp_path: Path, devices: int
) -> None:
    run, draw = Run(world, tmp_path, devices), random.Random(3 + devices)
    writing = "while a checkpoint is written"
    kinds = [writing, "when a checkpoint is there"] + ["after a step"] * 2
    chosen = [writing, "after a step", *draw.choices(kinds, k=KILLS - 2)]
    draw.shuffle(chosen)
    places = []
    for kind in chosen:
        killed(run, draw, kind)
        if kind == writing:  # half of it lies there, under another name
            assert list((run.folder / "checkpoints").glob(".*.tmp")) or run.kept() == 0
        places.append((run.kept(), max(run.logged(), default=0)))
    assert max(step for _, step in places) < STEPS
    run.finish()
    assert not list(run.folder.rglob(".*.tmp"))

    # it did go on from checkpoints in the middle of epochs, and trained on some visits twice
    assert sum(kept * PER_STEP % PAIRS != 0 for kept, _ in places) >= KILLS // 2
    assert len({kept for kept, _ in places}) >= KILLS // 2
    found, expected = losses_by_sample(run.losses), losses_by_sample(undisturbed.losses)
    assert any(len(values) > 1 for values in found.values())
    assert found.keys() == expected.keys()
    for sample, (loss,) in expected.items():
        assert found[sample] == pytest.approx([loss] * len(found[sample]), abs=1e-6), sample
    assert run.logged() == pytest.approx(undisturbed.logged(), abs=1e-6)
    assert list(run.logged()) == list(range(1, STEPS + 1))
    assert run.told().count("resuming after step") >= KILLS // 2
