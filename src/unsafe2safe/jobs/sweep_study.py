"""The study of a sweep in Optuna's own storage, driven by ask and tell.

What a trial is given depends on the seed, its number and the trials before it, and not on how often
the study was stopped: the sampler is made anew, with a seed of its own, for each trial.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from unsafe2safe.core.config.schema_sweep import Parameter, Sweep
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.jobs.sweep_front import Point

_POINTS, _TOLD, _REASON = "points", "told", "reason"
_ENDED = (TrialState.COMPLETE, TrialState.FAIL)


@dataclass(frozen=True)
class Proposal:
    """What to try next, by the name of each axis."""

    number: int
    parameters: Mapping[str, Any]
    trial: Trial


@dataclass(frozen=True)
class Done:
    """A trial that ended well; ``told`` is which of its points stood for it."""

    number: int
    parameters: Mapping[str, Any]
    points: tuple[Point, ...]
    told: int


class Study:
    """A study in the SQLite file ``path``, made where there is none."""

    def __init__(self, path: Path, settings: Sweep, seed: int) -> None:
        self._settings, self._seed = settings, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = RDBStorage(f"sqlite:///{path.resolve()}")
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=settings.name,
            directions=["maximize", "maximize"],
            load_if_exists=True,
        )

    def propose(self, total: int) -> Proposal | None:
        """The trial that was in flight when the study was stopped, or a new one; None once
        ``total`` have ended, well or badly."""
        if len(self._study.get_trials(deepcopy=False, states=_ENDED)) >= total:
            return None
        begun = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        number = begun[0].number if begun else len(self._study.trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._sampler(number)
            trial = Trial(self._study, begun[0]._trial_id) if begun else self._study.ask()
            axes = self._settings.parameters
            chosen = {name: _suggest(trial, name, axis) for name, axis in axes.items()}
        return Proposal(trial.number, chosen, trial)

    def tell(self, proposal: Proposal, points: list[Point], told: int) -> None:
        """End the trial: ``points[told]`` stands for it, all of them are kept."""
        kept = [asdict(point) for point in points]
        proposal.trial.set_user_attr(_POINTS, kept)
        proposal.trial.set_user_attr(_TOLD, told)
        self._study.tell(proposal.trial, (points[told].privacy, points[told].fidelity))

    def fail(self, proposal: Proposal, reason: str) -> None:
        """End the trial, which counts and is not tried again."""
        proposal.trial.set_user_attr(_REASON, reason)
        self._study.tell(proposal.trial, state=TrialState.FAIL)

    def done(self) -> list[Done]:
        """The trials that ended well, by number."""
        return [_done(trial) for trial in self._ended(TrialState.COMPLETE)]

    def failed(self) -> dict[int, str]:
        """Why trials failed, by number."""
        failed = self._ended(TrialState.FAIL)
        return {trial.number: trial.user_attrs.get(_REASON, "") for trial in failed}

    def _ended(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _sampler(self, number: int) -> BaseSampler:
        # numpy takes seeds of 32 bits
        seed = torch_seed(self._seed, "", number, "sweep") & 0xFFFFFFFF
        startup = self._settings.startup_trials
        match self._settings.sampler:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=startup)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=startup)
            case "nsga2":
                return NSGAIISampler(seed=seed)
            case "random":
                return RandomSampler(seed=seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()


def _suggest(trial: Trial, name: str, axis: Parameter) -> Any:
    if axis.choices is not None:
        return trial.suggest_categorical(name, axis.choices)
    low, high, step = axis.low, axis.high, axis.step
    if isinstance(low, int) and isinstance(high, int) and (step is None or isinstance(step, int)):
        return trial.suggest_int(name, low, high, step=step or 1, log=axis.log)
    assert low is not None  # both are there: the schema sees to it
    assert high is not None
    return trial.suggest_float(name, low, high, step=step, log=axis.log)


def _done(trial: FrozenTrial) -> Done:
    points = tuple(Point(**point) for point in trial.user_attrs[_POINTS])
    return Done(trial.number, trial.params, points, trial.user_attrs[_TOLD])
