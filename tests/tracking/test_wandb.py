from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.jobs.common import plain
from unsafe2safe.tracking.opening import open_tracker

SECRET = "Xaviera Quillfeather"
USER = "zebulonquirk"


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
            tracker.log_text("private_caption", SECRET, private=True)
            tracker.log_table("captions", ["caption"], [[SECRET]], private=True)
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
    assert {path.name.split("_")[0] for path in pictures} == {"good"}


def test_wandbs_debug_logs_are_deleted(run_folder: Path) -> None:
    assert not list((run_folder / "wandb").rglob("*.log"))
