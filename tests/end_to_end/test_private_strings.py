"""What is private is under paths.private alone, and gone after mode=purge."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import run_script

from unsafe2safe.core.records import PrivateRecord
from unsafe2safe.core.tables import read_parts
from unsafe2safe.data.samples import photos_folder

PLANTED = ("cat_poster.jpg", "coffee_note.jpg")


def searchable(path: Path) -> str:
    """A file's content in small letters without spaces; of a table, its cells."""
    text = path.name + path.read_bytes().decode("latin-1")
    if path.suffix == ".parquet":
        table = pq.ParquetFile(path).read()
        text += json.dumps(table.to_pylist(), default=str) + str(table.schema.metadata)
    return "".join(text.lower().split())


def holders(root: Path, strings: list[str], but: Path) -> list[tuple[Path, str]]:
    """Files under ``root``, without those under ``but``, that hold one of ``strings``."""
    wanted = ["".join(text.lower().split()) for text in strings]
    return [
        (path, text)
        for path in root.rglob("*")
        if path.is_file() and not path.is_relative_to(but)
        for content in [searchable(path)]
        for text in wanted
        if text in content
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Stage 1 on two photographs with private texts; all that libraries keep lies in one tree."""
    root = tmp_path_factory.mktemp("planted")
    images = tmp_path_factory.mktemp("originals")
    for name in PLANTED:
        shutil.copyfile(photos_folder() / name, images / name)
    places = {
        "HOME": "home", "HF_HOME": "hf", "XDG_CACHE_HOME": "cache", "XDG_CONFIG_HOME": "config",
        "TMPDIR": "tmp", "WANDB_CACHE_DIR": "wandb_cache", "WANDB_CONFIG_DIR": "wandb_config",
        "WANDB_DATA_DIR": "wandb_data",
    }  # fmt: skip
    environment = {key: str(root / name) for key, name in places.items()}
    for folder in environment.values():
        Path(folder).mkdir()
    command = ["dataset=folder", f"dataset.root={images}", f"output_dir={root / 'run'}"]
    finished = run_script("generate_triplets", *command, "logger=wandb", cwd=root, env=environment)
    assert finished.status == 0, finished.said
    (root / "stdout.log").write_text(finished.stdout)
    (root / "stderr.log").write_text(finished.stderr)
    return root, command, environment


def planted_strings(root: Path) -> list[str]:
    """What the labels know to be written in the photographs, and what was read in them."""
    labels = json.loads((photos_folder() / "labels.json").read_text())
    known = [text for name in PLANTED for text in labels[name]["text"]]
    (share,) = (root / "private" / "generate_triplets").iterdir()
    read = [
        finding.text
        for record in read_parts(share / "private", PrivateRecord)
        for finding in record.findings
        if len(finding.text) >= 4
    ]
    assert len(read) >= 5
    return [*known, *read]


def test_private_strings_are_nowhere_but_in_the_private_share_and_a_purge_deletes_them(run):
    root, command, environment = run
    strings = planted_strings(root)
    private = root / "private"
    assert list((root / "run" / "wandb").rglob("*.wandb"))  # W&B was there to be told
    assert holders(root, strings, but=private) == []
    assert len(holders(private, strings, but=root / "run")) >= 3
    for folder in (
        private,
        private / "generate_triplets",
        *(private / "generate_triplets").iterdir(),
    ):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in private.rglob("*.parquet"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    purged = run_script("generate_triplets", *command, "mode=purge", cwd=root, env=environment)
    assert purged.status == 0, purged.said
    assert "deleted private/generate_triplets/run-" in purged.stdout
    assert holders(root, strings, but=root / "nothing") == []
    again = run_script("generate_triplets", *command, "mode=purge", cwd=root, env=environment)
    assert again.status == 0
    assert "nothing to delete" in again.stdout
    assert list((root / "run" / "triplets").iterdir())  # the public side stays
    assert not list((private / "generate_triplets").iterdir())
