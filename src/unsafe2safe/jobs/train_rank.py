"""A process that trains beside train.py, for ``trainer.devices``."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback

from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import Unsafe2SafeError
from unsafe2safe.core.openmp import wait_briefly
from unsafe2safe.core.records import ExitStatus
from unsafe2safe.engines.processes import end_with_parent
from unsafe2safe.jobs.command_line import quiet_imports


def main() -> None:
    """Read configuration and place from standard input, train, exit with a status."""
    wait_briefly()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    quiet_imports()
    given = json.loads(end_with_parent())
    status = _status(Train.model_validate(given["config"]), given["ranks"])
    # _exit: the thread that watches the parent sits in a read that an orderly exit waits for
    sys.stderr.flush()
    os._exit(status)


def _status(config: Train, place: dict[str, object]) -> ExitStatus:
    from unsafe2safe.jobs.train import follow
    from unsafe2safe.jobs.train_company import WITHIN
    from unsafe2safe.training.ranks import Ranks, joined

    try:
        ranks = Ranks(**place)  # type: ignore[arg-type]
        with joined(ranks, WITHIN):
            return follow(config, ranks).status
    except Unsafe2SafeError as error:
        print(error, file=sys.stderr)
        return ExitStatus.UNUSABLE
    except BaseException:
        traceback.print_exc()
        return ExitStatus.FAULT


if __name__ == "__main__":
    main()
