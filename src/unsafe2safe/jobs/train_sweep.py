"""``train.py mode=sweep``: a study of two objectives, each trial a training of its own.

Optuna keeps the trials in the study's folder and proposes what to try; the trainings are train.py's
own runs. So a study that was killed goes on with the trial in flight, from its last checkpoint.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import StorageError, Unsafe2SafeError, UsageError
from unsafe2safe.core.files import atomic_path, write_json, write_text
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import ExitStatus, RunResult
from unsafe2safe.jobs import train, train_export
from unsafe2safe.jobs.common import find_input, log, plain, result_of, run_spec
from unsafe2safe.jobs.sweep_front import (
    DEFAULTS,
    Point,
    Row,
    as_csv,
    as_json,
    as_table,
    front,
    hypervolume,
    own_point,
    stands_for,
    verdict,
)
from unsafe2safe.jobs.sweep_picture import draw_front
from unsafe2safe.jobs.sweep_study import Proposal, Study
from unsafe2safe.jobs.sweep_trials import (
    check_parameters,
    default_values,
    read_points,
    trial_config,
    trial_name,
    values_of_keys,
)
from unsafe2safe.jobs.train_company import WITHIN
from unsafe2safe.tracking.opening import open_tracker
from unsafe2safe.training.ranks import Ranks, external_ranks, joined, tell_all
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scale import check_devices

TRIALS = "trials"
_STUDY, _PICTURE, _TABLE, _FRONT = "study.db", "front.png", "front.csv", "front.json"
_COLUMNS = ("privacy", "fidelity", "hypervolume")


class _Stopped(Exception):  # noqa: N818 - no error
    """A signal ended a trial; it has saved."""


def run(config: Train) -> RunResult:
    """Train the defaults and ``sweep.n_trials`` trials; write the front of all of them.

    With ``trainer.devices`` each trial starts its own processes. Under torchrun or srun all
    processes train each trial together, and the first one alone knows of the study.

    Raises:
        UsageError: axes that are no keys; the defaults themselves cannot be trained; exports are
            asked for.
    """
    check_parameters(config)
    if train_export.asked(config):
        raise UsageError(
            "export.merge and export.push_to_hub are for one training: give them with the values "
            "of the trial that you choose, and its folder as output_dir"
        )
    check_devices(config.trainer)
    ranks = external_ranks(config.trainer.devices, config.trainer.num_nodes)
    with joined(ranks, WITHIN) if ranks is not None else nullcontext():
        if ranks is not None and ranks.rank:
            return _follow(ranks)
        with _ending_all(ranks):
            return _study(config, ranks)


def _follow(ranks: Ranks) -> RunResult:
    """Train beside the first rank whatever trials it names."""
    while (told := tell_all(None)) is not None:
        try:
            train.take_part(Train.model_validate_json(told), ranks)
        except Unsafe2SafeError as error:  # the first rank has met it as well, and writes it down
            log.warning("rank %d: %s", ranks.rank, error)
    return RunResult(ExitStatus.DONE, None)


@contextmanager
def _ending_all(ranks: Ranks | None) -> Iterator[None]:
    try:
        yield
    finally:
        if ranks is not None:
            tell_all(None)


def _study(config: Train, ranks: Ranks | None) -> RunResult:
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    choice = recipe.choice(config)
    inputs = recipe.inputs(config, partial(find_input, config))
    per_step = train.samples_per_step(config.trainer)
    ignored = [key for key in train.NEVER_CHANGES_RESULT if key != "sweep"]
    spec = run_spec(
        config,
        "sweep",
        f"{config.sweep.name}-{choice}",
        inputs,
        (*ignored, "sweep.n_trials", *recipe.unused),
        {**recipe.content(config, inputs), "trainer.samples_per_step": str(per_step)},
        recipe.stands_for,
    )
    with RunFolder.open(spec, config.existing) as folder:
        counts = folder.state["counts"]
        if folder.complete and counts["trials"] >= config.sweep.n_trials:
            told = f"{folder.path} is complete already: {folder.state['verdict']}"
            return result_of(folder, counts["failed"], told, folder.path / _PICTURE)
        folder.reopen()
        trials = Trials(config, folder.path / TRIALS, inputs, ranks)
        try:
            # What keeps the defaults from being trained would keep every trial: it ends the study.
            defaults = trials.points(default_values(config))
            with Study(folder.path / _STUDY, config.sweep, config.seed) as study:
                _work_off(config, study, trials, defaults)
                rows = _rows(config, study, defaults)
                failed = study.failed()
        except _Stopped:
            told = "stopped by a signal; the same command goes on with the trial in flight"
            return RunResult(ExitStatus.STOPPED, folder.path, message=told)
        return _report(config, folder, rows, own_point(defaults, config.editor), failed)


class Trials:
    """The trainings of a study: each once, in a folder named by what is special in it."""

    def __init__(
        self, config: Train, folder: Path, inputs: Mapping[str, Path], ranks: Ranks | None
    ) -> None:
        self._config, self._folder, self._inputs, self._ranks = config, folder, inputs, ranks

    def points(self, values: Mapping[str, Any]) -> list[Point]:
        """Train with ``values``, unless that is done already; what it is worth.

        Raises:
            UsageError: it cannot be trained so, or diverges.
            _Stopped: by a signal.
        """
        folder = self._folder / trial_name(values)
        config = trial_config(self._config, values, folder, self._inputs)
        _let_go_of_memory()
        if self._ranks is None:
            result = train.run(config)
        else:
            tell_all(config.model_dump_json())
            result = train.take_part(config, self._ranks)
        if result.status is ExitStatus.STOPPED:
            raise _Stopped
        return read_points(folder)


def _work_off(config: Train, study: Study, trials: Trials, defaults: list[Point]) -> None:
    """Bring ``study`` to its number of trials.

    A trial that cannot be trained with its values, or not in the memory there is, has failed.
    """
    total = config.sweep.n_trials
    seen = [*defaults, *(point for trial in study.done() for point in trial.points)]
    while (proposal := study.propose(total)) is not None:
        values = values_of_keys(config.sweep.parameters, proposal.parameters)
        which = f"trial {proposal.number} (of {total}, from 0)"
        log.info("%s: %s", which, _in_words(proposal))
        try:
            points = trials.points(values)
        except StorageError:  # not the trial's fault
            raise
        except (Unsafe2SafeError, torch.OutOfMemoryError) as error:
            reason = str(error).splitlines()[0]
            study.fail(proposal, reason)
            log.warning("trial %d failed: %s", proposal.number, reason)
            continue
        chosen = stands_for(points, seen)
        seen += points
        study.tell(proposal, points, chosen)
        log.info(
            "trial %d: privacy %.3f, fidelity %.3f; hypervolume of all so far %.4f",
            proposal.number,
            points[chosen].privacy,
            points[chosen].fidelity,
            hypervolume(seen),
        )


def _in_words(proposal: Proposal) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in proposal.parameters.items()
    )


def _let_go_of_memory() -> None:
    """Of the models of the trial before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rows(config: Train, study: Study, defaults: list[Point]) -> list[Row]:
    values = default_values(config)
    rows = [Row(DEFAULTS, trial_name(values), values, point, False) for point in defaults]
    for trial in study.done():
        values = values_of_keys(config.sweep.parameters, trial.parameters)
        rows += [
            Row(str(trial.number), trial_name(values), values, point, index == trial.told)
            for index, point in enumerate(trial.points)
        ]
    return rows


def _report(
    config: Train,
    folder: RunFolder,
    rows: list[Row],
    defaults: Point,
    failed: Mapping[int, str],
) -> RunResult:
    """Write and log the front; the study is complete."""
    picture = draw_front(rows, defaults)
    with atomic_path(folder.path / _PICTURE) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    write_text(folder.path / _TABLE, as_csv(rows))
    write_json(folder.path / _FRONT, as_json(rows, defaults))
    folder.write_failures({"trial": str(n), "reason": reason} for n, reason in failed.items())
    written = [folder.path / name for name in (_PICTURE, _TABLE, _FRONT)]
    run_id = folder.state["fingerprint"]
    with open_tracker(config.logger, folder.path, plain(config), run_id, _COLUMNS, 0) as tracker:
        seen: list[Point] = []
        for step, row in enumerate(rows):
            seen.append(row.point)
            values = (row.point.privacy, row.point.fidelity, hypervolume(seen))
            tracker.log_metrics(step + 1, dict(zip(_COLUMNS, values, strict=True)))
        tracker.log_drawing("front", picture)
        tracker.log_table("front", *as_table(rows))
        tracker.log_files(f"front-{run_id}", "pareto-front", written)
    told = verdict(rows, defaults)
    best = front(row.point for row in rows)
    done = len({row.trial for row in rows} - {DEFAULTS})
    counts = {"trials": done + len(failed), "failed": len(failed), "front": len(best)}
    folder.finish(counts, verdict=told, hypervolume=hypervolume(best))
    message = f"{done} trials beside the defaults, {len(best)} points on the front; {told}"
    if failed:
        message += f"; {len(failed)} trials failed (failures.jsonl)"
    return result_of(folder, len(failed), f"{message}; front in {written[0]}", *written)
