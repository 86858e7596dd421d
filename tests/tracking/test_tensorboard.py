"""logger=tensorboard, read back by TensorBoard itself."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.jobs.common import plain
from unsafe2safe.tracking.guard import Picture
from unsafe2safe.tracking.opening import open_tracker

SECRET = "Xaviera Quillfeather"


def picture(grey: int) -> np.ndarray:
    return np.full((6, 8, 3), grey, np.uint8)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = load("train", ["logger=tensorboard", f"paths.private={folder}/private", "seed=7"])
    for start, stop in ((0, 4), (2, 6)):  # killed after step 4, resumed from step 2
        with open_tracker(config.logger, folder, plain(config), "abc", ["loss"], start) as tracker:
            for step in range(start + 1, stop + 1):
                tracker.log_metrics(step, {"loss": step + start / 10})
            tracker.log_metrics(stop, {"validation/privacy": 0.5})
            tracker.log_best({"validation/best_step": stop})
            tracker.log_text("caption", "a person outdoors", private=False)
            tracker.log_text("private", SECRET, private=True)
            tracker.log_image("good", picture(79), OutcomeState.ANONYMIZED)
            tracker.log_image("bad", picture(78), OutcomeState.NEEDS_REVIEW)
            tracker.log_image("original", picture(77), None)
            tracker.log_drawing("plot", picture(90))
            tracker.log_figure("front", {"data": [], "layout": {}}, picture(91))
            tracker.log_summary({"hypervolume": 0.75})
            cells = [
                ["a | b", Picture(picture(80), OutcomeState.SAFE)],
                [None, Picture(picture(76), OutcomeState.FAILED)],
            ]
            tracker.log_table("edits", ["caption", "edited"], cells)
    return folder


def read(folder: Path):  # type: ignore[no-untyped-def]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}
    )
    return events.Reload()


def test_tensorboard_reads_a_resumed_run_as_an_undisturbed_one(run_folder: Path) -> None:
    events = read(run_folder)
    loss = [(event.step, round(event.value, 3)) for event in events.Scalars("loss")]
    assert loss == [(1, 1.0), (2, 2.0), (3, 3.2), (4, 4.2), (5, 5.2), (6, 6.2)]
    assert [event.step for event in events.Scalars("validation/privacy")] == [6]
    assert (run_folder / "metrics.csv").exists()


def test_pictures_texts_and_config_are_there_and_what_may_not_is_not(run_folder: Path) -> None:
    events = read(run_folder)
    assert set(events.Tags()["images"]) == {"good", "plot", "front", "edits/edited/00"}
    assert [event.value for event in events.Scalars("hypervolume")] == [0.75]
    (shown,) = events.Images("good")
    assert (shown.width, shown.height, shown.step) == (8, 6, 6)
    texts = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    assert texts["caption/text_summary"] == "a person outdoors"
    assert "| a \\| b |" in texts["edits/text_summary"]
    assert "seed: 7" in texts["config/text_summary"]


def test_nothing_private_and_nothing_of_the_machine_is_in_it(run_folder: Path) -> None:
    files = list((run_folder / "tensorboard").iterdir())
    assert len(files) == 2
    content = b"".join(path.name.encode() + path.read_bytes() for path in files)
    assert SECRET.encode() not in content
    assert str(run_folder).encode() not in content
    assert all(path.name.endswith(".unsafe2safe") for path in files)
    if len(socket.gethostname()) > 5:
        assert socket.gethostname().encode() not in content
