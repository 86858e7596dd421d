"""Launchers as config groups, and what a sweep's jobs come to in whichever process they ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from unsafe2safe.core.config.compose import compose_config, load
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.jobs import multirun


@pytest.mark.parametrize("script", ["train", "anonymize", "evaluate", "generate_triplets"])
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "submitit_slurm"])
def test_every_script_takes_every_launcher(script: str, launcher: str) -> None:
    assert load(script, [f"launcher={launcher}"]).mode == "run"


@pytest.mark.parametrize("group", ["launcher", "hydra/launcher"])
@pytest.mark.parametrize(
    ("choice", "package"),
    [("joblib", "hydra-joblib-launcher"), ("submitit_slurm", "hydra-submitit-launcher")],
)
def test_a_launcher_that_is_not_installed_names_its_package(
    group: str, choice: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Plugins.instance()
    known = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(known, f"{choice}.yaml")
    with pytest.raises(ConfigError, match=rf"launcher={choice} needs {package}: pip install"):
        compose_config("train", [f"{group}={choice}"])


def test_results_of_other_processes_arrive_and_the_worst_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(multirun, "_results", [])
    monkeypatch.setattr(multirun, "_folders", [])
    callback = multirun.JobResults()
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "job": {"num": 0}}})
    callback.on_multirun_start(config)

    def ends(number: int, status: ExitStatus, folder: Path | None) -> None:
        config.hydra.job.num = number
        result = RunResult(status, folder, message=f"job {number}")
        returned = JobReturn(status=JobStatus.COMPLETED)
        returned.return_value = result
        callback.on_job_end(config, returned)

    ends(0, ExitStatus.DONE, tmp_path)
    monkeypatch.setattr(multirun.os, "getpid", lambda: -1)  # from here on in another process
    ends(1, ExitStatus.UNUSABLE, None)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    ends(2, ExitStatus.STOPPED, tmp_path)
    statuses = multirun.finished_jobs("train")
    assert statuses == [ExitStatus.DONE, ExitStatus.UNUSABLE, ExitStatus.STOPPED]
    told = capsys.readouterr()
    assert told.out == "job 2\n"  # the others' processes have told theirs themselves
    assert told.err == ""
    assert list(tmp_path.iterdir()) == []
