from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.jobs.common import plain
from unsafe2safe.tracking.guard import Picture
from unsafe2safe.tracking.opening import open_tracker
from unsafe2safe.tracking.pictures import inline_png

SECRET = "Xaviera Quillfeather"
USER = "zebulonquirk"
FIGURE = {"data": [{"type": "scatter", "x": [0.5], "y": [0.25]}], "layout": {"height": 300}}
GOOD, BAD = (np.full((5, 7, 3), grey, np.uint8) for grey in (80, 81))


def stored_records(path: Path) -> Iterator[object]:
    """Records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, block, parts = 7, 32768, b""
    while position + 7 <= len(content):
        left = block - position % block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = load("train", ["logger=wandb", f"paths.private={folder}/private", "seed=7"])
    content = plain(config) | {"note": f"see {folder}/notes"}
    environment = pytest.MonkeyPatch()
    for name in ("USER", "LOGNAME", "USERNAME", "WANDB_USERNAME"):
        environment.setenv(name, USER)
    for start, stop in ((0, 3), (2, 5)):  # killed after step 3, resumed from step 2
        with open_tracker(config.logger, folder, content, "abc123", ["loss"], start) as tracker:
            for step in range(start + 1, stop + 1):
                tracker.log_metrics(step, {"loss": 1 / step})
                tracker.log_drawing("plot", np.full((4, 4, 3), step, np.uint8))
                tracker.log_metrics(step, {"validation/privacy": 0.5})
            tracker.log_text("private_caption", SECRET, private=True)
            tracker.log_table("captions", ["caption"], [[SECRET]], private=True)
            tracker.log_best({"validation/best_step": stop})
            tracker.log_summary({"hypervolume": 0.75})
            tracker.log_figure("front", FIGURE, GOOD)
            tracker.log_figure("sneaked", FIGURE | {"layout": {"images": [{"source": "x"}]}}, BAD)
            tracker.log_table("points", ["step", "privacy"], [[1, 0.25], [2, 0.5]])
            edits = [
                ["a person outdoors", Picture(GOOD, OutcomeState.ANONYMIZED)],
                ["a person indoors", Picture(BAD, OutcomeState.NEEDS_REVIEW)],
                ["a person", Picture(BAD, None)],
            ]
            tracker.log_table("edits", ["caption", "edited"], edits)
            tracker.log_text("public_caption", "a person outdoors", private=False)
            tracker.log_image("original", np.full((8, 8, 3), 77, np.uint8), None)
            tracker.log_image("bad_edit", np.full((8, 8, 3), 78, np.uint8), OutcomeState.FAILED)
            tracker.log_image("good_edit", np.full((8, 8, 3), 79, np.uint8), OutcomeState.SAFE)
    environment.undo()
    return folder


def test_an_offline_run_lies_in_the_run_folder_under_one_id(run_folder: Path) -> None:
    stored = list(run_folder.glob("wandb/offline-run-*/run-abc123.wandb"))
    assert stored
    history, config_keys = set(), set()
    for path in stored:
        for record in stored_records(path):
            kind = record.WhichOneof("record_type")  # type: ignore[attr-defined]
            if kind == "history":
                items = record.history.item  # type: ignore[attr-defined]
                history |= {item.key or "/".join(item.nested_key) for item in items}
            if kind == "run":
                updates = record.run.config.update  # type: ignore[attr-defined]
                config_keys |= {item.key for item in updates}
                assert record.run.host == ""  # type: ignore[attr-defined]
    assert any(key.startswith("loss") for key in history)
    assert any(key.startswith("good_edit") for key in history)
    assert not any(key.startswith(("original", "bad_edit", "private")) for key in history)
    assert {"seed", "trainer", "editor"} <= config_keys


def test_nothing_private_and_nothing_of_the_machine_is_in_it(run_folder: Path) -> None:
    files = [path for path in (run_folder / "wandb").rglob("*") if path.is_file()]
    assert files
    content = b"".join(path.read_bytes() + str(path.name).encode() for path in files)
    assert SECRET.encode() not in content
    assert b"a person outdoors" in content
    for place in (run_folder, Path.home(), Path.cwd(), Path(__file__).parent):
        assert f"{place}/".encode() not in content
    assert USER.encode() not in content
    host = socket.gethostname()
    if len(host) > 5:  # a short name occurs in random ids; its field is checked above
        assert host.encode() not in content
    pictures = [path for path in files if path.suffix == ".png"]
    assert {path.name.split("_")[0] for path in pictures} == {"good", "plot"}


def values_of(items):  # type: ignore[no-untyped-def]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def history(folder: Path) -> list[dict[str, object]]:
    """The rows of all starts, in order."""
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in stored_records(path):
            if record.WhichOneof("record_type") == "history":  # type: ignore[attr-defined]
                items = record.history.item  # type: ignore[attr-defined]
                rows.append(
                    {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                )
    return rows


def test_no_row_is_lost_to_pictures_logged_between_steps(run_folder: Path) -> None:
    rows = history(run_folder)
    steps = [(row["step"], row["_step"], round(row["loss"], 4)) for row in rows if "loss" in row]  # type: ignore[call-overload]
    first, resumed = steps[:3], steps[3:]
    assert first == [(1, 1, 1.0), (2, 2, 0.5), (3, 3, 0.3333)]
    assert resumed == [(3, 3, 0.3333), (4, 4, 0.25), (5, 5, 0.2)]
    for row in rows:
        if "loss" in row:
            assert row["validation/privacy"] == 0.5
            assert row["plot/_type"] == "image-file"


def test_tables_are_tables_and_pictures_in_them_are_the_publishable_ones(run_folder: Path) -> None:
    last = history(run_folder)[-1]
    assert (last["points/_type"], last["points/nrows"]) == ("table-file", 2)
    (stored,) = {p.read_bytes() for p in run_folder.glob("wandb/*/files/media/table/points*.json")}
    content = json.loads(stored)
    assert content["columns"] == ["step", "privacy"]
    assert content["data"] == [[1, 0.25], [2, 0.5]]
    assert last["edits/_type"] == "html-file"
    pages = {p.read_text() for p in run_folder.glob("wandb/*/files/media/html/edits*.html")}
    (page,) = pages
    assert inline_png(GOOD) in page
    assert page.count("<img") == 1
    assert "a person indoors" in page  # its caption is public
    assert not list(run_folder.glob("wandb/*/files/**/*artifact*"))


def test_best_is_in_the_summary(run_folder: Path) -> None:
    found = {}
    for path in sorted(run_folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in stored_records(path):
            if record.WhichOneof("record_type") == "summary":  # type: ignore[attr-defined]
                found |= values_of(record.summary.update)  # type: ignore[attr-defined]
    assert found["validation/best_step"] == 5
    assert found["hypervolume"] == 0.75


def test_a_figure_is_an_interactive_chart(run_folder: Path) -> None:
    last = history(run_folder)[-1]
    assert last["front/_type"] == "plotly-file"
    assert not any(key.startswith("sneaked") for row in history(run_folder) for key in row)
    charts = {p.read_text() for p in run_folder.glob("wandb/*/files/media/plotly/front*.json")}
    (chart,) = charts
    assert json.loads(chart)["data"] == FIGURE["data"]


def test_wandbs_debug_logs_are_deleted(run_folder: Path) -> None:
    assert not list((run_folder / "wandb").rglob("*.log"))
