"""The chain on the sample photographs, run once as a user runs it and shared by all tests, those of
other processes of the same test run too: nobody may change it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import run_script
from filelock import FileLock


@dataclass(frozen=True)
class Chain:
    root: Path
    triplets: Path
    redacted: Path

    @property
    def private(self) -> Path:
        return self.root / "private"


@pytest.fixture(scope="session")
def chain(tmp_path_factory, worker_id) -> Chain:
    own = tmp_path_factory.getbasetemp()
    root = (own if worker_id == "master" else own.parent) / "chain"
    root.mkdir(exist_ok=True)
    made = Chain(root, root / "triplets", root / "redacted")
    with FileLock(root / ".made"):
        if not (made.redacted / "manifest.parquet").exists():
            make(made)
    return made


def make(made: Chain) -> None:
    root = made.root
    described = run_script("generate_triplets", f"output_dir={made.triplets}", cwd=root)
    assert described.status == 0, described.said
    redacted = run_script(
        "anonymize", f"triplets={made.triplets}", f"output_dir={made.redacted}", cwd=root
    )
    assert redacted.status in (0, 3), redacted.said
