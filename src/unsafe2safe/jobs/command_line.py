"""The outermost wrapper of the four scripts: Hydra composes, a job runs, a status comes back.

Hydra alone answers every mistake with status 1 and several lines, and an exit inside one job of a
multirun ends the sweep. Here each mistake is one line, all jobs of a sweep run, and the worst of
their results becomes the exit status. A job that was told to stop ends the sweep: whoever sent the
signal does not wait for the jobs behind it.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from unsafe2safe.core.config.compose import check_config, config_dir, explain_hydra
from unsafe2safe.core.errors import Unsafe2SafeError
from unsafe2safe.core.openmp import wait_briefly
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.jobs.multirun import finished_jobs, set_up_process, show

# They warn of torchao's own imports at every start, wherever it is installed, used or not.
_WARN_OF_IMPORTS = ("torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
_INTERRUPTED = "interrupted; the same command goes on from here"


def quiet_imports() -> None:
    """Before heavy libraries are imported: what they say of each other's imports is not shown."""
    for name in _WARN_OF_IMPORTS:
        logging.getLogger(name).setLevel(logging.ERROR)


def run_job(script: str, config: DictConfig) -> RunResult:
    """Check one composed configuration and run the script's job on it; never raises."""
    quiet_imports()
    try:
        checked = check_config(script, config)
        job = importlib.import_module(f"unsafe2safe.jobs.{script}")
        result: RunResult = job.run(checked)
    except Unsafe2SafeError as error:
        return RunResult(ExitStatus.UNUSABLE, None, message=str(error))
    except KeyboardInterrupt:
        return RunResult(ExitStatus.FAULT, None, message=_INTERRUPTED)
    except Exception as error:
        traceback.print_exc()
        message = f"a fault of ours ({type(error).__name__}); please report the lines above"
        return RunResult(ExitStatus.FAULT, None, message=message)
    return result


def main(script: str) -> None:
    """Run ``script`` with the process's own arguments and exit with the worst job's status."""
    wait_briefly()
    began_by = os.getpid()
    stopped = False

    def task(config: DictConfig) -> RunResult:
        nonlocal stopped
        if not set_up_process(began_by) or stopped:
            return RunResult(ExitStatus.STOPPED, None)
        result = run_job(script, config)
        stopped = result.status is ExitStatus.STOPPED or result.message == _INTERRUPTED
        show(script, result.message, written=result.output_dir is not None)
        return result

    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that its errors reach us instead of ending us
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=script)(task)()
    except (HydraException, OmegaConfBaseException, Unsafe2SafeError) as error:
        told = error if isinstance(error, Unsafe2SafeError) else explain_hydra(script, error)
        print(f"{script}.py: {told}", file=sys.stderr)
        sys.exit(ExitStatus.UNUSABLE)
    except Exception:  # a launcher has lost a job: killed for its memory, for one
        traceback.print_exc()
        print(
            f"{script}.py: a job of the sweep ended without a result (the lines above say how); "
            "the same command goes on",
            file=sys.stderr,
        )
        finished_jobs(script)
        sys.exit(ExitStatus.FAULT)
    if statuses := finished_jobs(script):
        sys.exit(max(statuses, key=lambda status: status.severity))
