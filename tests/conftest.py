"""What all tests share: the scripts as a user runs them, and no silent skips in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from unsafe2safe.core.openmp import wait_briefly

# The same examples in every run: a failure is the change's, not the draw's.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

REPOSITORY = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "2")
wait_briefly()


@dataclass(frozen=True)
class Finished:
    """A script that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


def run_script(
    script: str, *overrides: str, cwd: Path, env: dict[str, str] | None = None
) -> Finished:
    """Run ``script`` as a user does, in ``cwd``."""
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / f"{script}.py"), *overrides],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Finished(process.returncode, process.stdout, process.stderr)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI=1 a skipped test is a failure: what was not run was not proven."""
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
