from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from unsafe2safe.core.records import OutcomeState
from unsafe2safe.tracking.csv_sink import CsvSink
from unsafe2safe.tracking.guard import Picture, Sink, Tracker
from unsafe2safe.tracking.redaction import REDACTED, redact_config

IMAGE = np.zeros((4, 5, 3), np.uint8)


class Recorder(Sink):
    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def metrics(self, step, values):
        self.seen.append(("metrics", (step, dict(values))))

    def image(self, key, image):
        self.seen.append(("image", key))

    def text(self, key, text):
        self.seen.append(("text", text))

    def table(self, key, columns, rows):
        self.seen.append(("table", key))

    def summary(self, values):
        self.seen.append(("summary", dict(values)))

    def figure(self, key, figure, drawing):
        self.seen.append(("figure", key))

    def finish(self):
        self.seen.append(("finish", None))


@pytest.mark.parametrize("log_private", [False, True])
@pytest.mark.parametrize("state", list(OutcomeState))
def test_edited_images_pass_only_when_publishable(state: OutcomeState, log_private: bool) -> None:
    sink = Recorder()
    tracker = Tracker([sink], log_private=log_private)
    assert tracker.log_image("edited", IMAGE, state) is state.publishable
    assert sink.seen == ([("image", "edited")] if state.publishable else [])
    assert sum(tracker.refused.values()) == (not state.publishable)


SCATTER = {"type": "scatter", "x": [0.1], "y": [0.2]}


@pytest.mark.parametrize(
    "held",
    [
        {"data": [SCATTER], "layout": {"images": [{"source": "face.png"}]}},
        {"data": [SCATTER, {"type": "image", "z": [[[0, 0, 0]]]}], "layout": {}},
        {"data": [SCATTER | {"text": ["<img src='data:image/png;base64,AAAA'>"]}], "layout": {}},
    ],
)
def test_a_figure_passes_unless_it_holds_a_picture(held: dict[str, object]) -> None:
    sink = Recorder()
    tracker = Tracker([sink], log_private=True)
    assert tracker.log_figure("front", {"data": [SCATTER], "layout": {}}, IMAGE)
    assert not tracker.log_figure("face", held, IMAGE)
    assert sink.seen == [("figure", "front")]
    assert tracker.refused == {"figure_with_picture": 1}


def test_a_summary_holds_numbers_only() -> None:
    sink = Recorder()
    tracker = Tracker([sink])
    tracker.log_summary({"hypervolume": 0.5})
    with pytest.raises(TypeError, match="caption is a str"):
        tracker.log_summary({"caption": "John Doe"})  # type: ignore[dict-item]
    assert sink.seen == [("summary", {"hypervolume": 0.5})]


@pytest.mark.parametrize("log_private", [False, True])
def test_originals_and_private_texts_pass_only_when_asked_for(log_private: bool) -> None:
    sink = Recorder()
    tracker = Tracker([sink], log_private=log_private)
    tracker.log_image("original", IMAGE, None)
    tracker.log_text("caption", "John Doe, 12 Elm Street", private=True)
    tracker.log_table("t", ["caption"], [["John Doe"]], private=True)
    tracker.log_text("public", "a person", private=False)
    kinds = [kind for kind, _ in sink.seen]
    assert kinds == (["image", "text", "table", "text"] if log_private else ["text"])
    assert sum(tracker.refused.values()) == (0 if log_private else 3)


@pytest.mark.parametrize("log_private", [False, True])
def test_pictures_in_tables_pass_as_pictures_do(log_private: bool) -> None:
    class Tables(Recorder):
        def table(self, key, columns, rows):
            self.seen.append(("table", rows))

    sink = Tables()
    tracker = Tracker([sink], log_private=log_private)
    states = [OutcomeState.ANONYMIZED, OutcomeState.NEEDS_REVIEW, OutcomeState.FAILED, None]
    rows = [["a person", Picture(IMAGE, state)] for state in states]
    tracker.log_table("edits", ["caption", "edited"], rows)
    ((_, passed),) = sink.seen
    assert [row[0] for row in passed] == ["a person"] * 4
    assert [row[1] is not None for row in passed] == [True, False, False, log_private]
    assert sum(tracker.refused.values()) == 3 - log_private


def test_what_is_no_number_or_no_picture_is_an_error() -> None:
    tracker = Tracker([Recorder()], log_private=True)
    with pytest.raises(TypeError, match="caption"):
        tracker.log_metrics(1, {"caption": "John Doe"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="uint8"):
        tracker.log_image("x", IMAGE.astype(np.float32), OutcomeState.SAFE)  # type: ignore[arg-type]


def test_places_of_the_machine_are_redacted() -> None:
    config = {
        "seed": 3,
        "output_dir": "outputs/x",
        "paths": {"data": "data", "private": "/home/alice/private"},
        "dataset": {"name": "folder", "root": "pictures of alice", "orientation": "apply"},
        "editor": {"weights": "w", "adapter": None, "note": "from /mnt/alice/base", "ratio": "1/2"},
        "runs": ["../alice/run"],
        "validation": {"pairs": "pairs of alice", "every": 2},
        "write_pairs": True,
        "other": [r"C:\alice", "~/alice", "file:///alice", "a/b", "and / or", "..", "x..y"],
    }
    redacted = redact_config(config)
    assert "alice" not in str(redacted)
    assert redacted["seed"] == 3
    assert redacted["validation"] == {"pairs": REDACTED, "every": 2}
    assert redacted["write_pairs"] is True
    assert redacted["dataset"] == {"name": "folder", "root": REDACTED, "orientation": "apply"}
    assert redacted["editor"]["ratio"] == "1/2"
    assert redacted["editor"]["adapter"] is None
    assert redacted["other"] == [*[REDACTED] * 3, "a/b", "and / or", REDACTED, "x..y"]


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.open()))


def test_a_resumed_csv_equals_an_undisturbed_one(tmp_path: Path) -> None:
    def log(path: Path, start: int, stop: int) -> None:
        sink = CsvSink(path, ["loss"], keep_until=start)
        for step in range(start + 1, stop + 1):
            sink.metrics(step, {"loss": 1 / step})
        sink.finish()

    whole, resumed = tmp_path / "a.csv", tmp_path / "b.csv"
    log(whole, 0, 9)
    log(resumed, 0, 7)
    with resumed.open("a") as file:
        file.write("8,0.1")  # killed in the middle of a row
    log(resumed, 4, 9)
    assert resumed.read_bytes() == whole.read_bytes()
    assert rows(whole)[:2] == [["step", "loss"], ["1", "1.0"]]


def test_grouped_metrics_lie_in_tables_and_not_among_the_columns(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "m.csv", ["loss"], keep_until=0)
    sink.metrics(1, {"validation/privacy": 0.5})
    sink.metrics(1, {"loss": 0.5})
    sink.table("validation/points", ["step", "x", "picture"], [[1, None, IMAGE]])
    sink.finish()
    assert rows(tmp_path / "m.csv") == [["step", "loss"], ["1", "0.5"]]
    assert rows(tmp_path / "tables/validation/points.csv")[1] == ["1", "", ""]


def test_a_csv_row_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "m.csv", ["loss"], keep_until=0)
    sink.metrics(1, {"loss": 0.5})
    assert rows(tmp_path / "m.csv") == [["step", "loss"], ["1", "0.5"]]
    with pytest.raises(KeyError, match="accuracy"):
        sink.metrics(2, {"accuracy": 1.0})
    sink.finish()
