"""The chain on the sample photographs, run once as a user runs it and shared by all tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import run_script


@dataclass(frozen=True)
class Chain:
    root: Path
    triplets: Path
    redacted: Path

    @property
    def private(self) -> Path:
        return self.root / "private"


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Chain:
    root = tmp_path_factory.mktemp("chain")
    made = Chain(root, root / "triplets", root / "redacted")
    described = run_script("generate_triplets", f"output_dir={made.triplets}", cwd=root)
    assert described.status == 0, described.said
    redacted = run_script(
        "anonymize", f"triplets={made.triplets}", f"output_dir={made.redacted}", cwd=root
    )
    assert redacted.status in (0, 3), redacted.said
    return made
