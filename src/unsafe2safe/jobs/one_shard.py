"""A process that works off one shard of a script's run, for ``engine.devices``."""

from __future__ import annotations

import json
import logging
import os
import sys

from omegaconf import OmegaConf

from unsafe2safe.core.openmp import wait_briefly
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.engines.processes import end_with_parent
from unsafe2safe.jobs.command_line import run_job


def main() -> None:
    """Read script and configuration from standard input, run it, exit with its status."""
    wait_briefly()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("unsafe2safe").setLevel(logging.INFO)
    given = json.loads(end_with_parent())
    result = run_job(given["script"], OmegaConf.create(given["config"]))
    if result.status not in (ExitStatus.DONE, ExitStatus.DONE_WITH_FAILURES):
        print(result.message, file=sys.stderr, flush=True)
    # _exit: the thread that watches the parent sits in a read that an orderly exit waits for
    sys.stderr.flush()
    os._exit(result.status)


if __name__ == "__main__":
    main()
