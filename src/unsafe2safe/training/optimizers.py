"""``optimizer=...``: any optimizer of a library, as a partial that the trainer completes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from torch import nn
from torch.optim import Optimizer

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.precision import Precision

OptimizerFactory = Callable[[Iterable[nn.Parameter], float, float], Optimizer]


def optimizer_factory(
    settings: Mapping[str, Any], precision: Precision = "32-true"
) -> OptimizerFactory:
    """From parameters, learning rate and weight decay to the optimizer that ``settings`` name.

    Under ``precision`` 16-mixed ``fused`` is turned off: a fused optimizer unscales the gradients
    itself, too late for them to be clipped. Tried on one weight at once, so that a mistake is told
    before anything is loaded.

    Raises:
        UsageError: its library is not installed, or it does not take these settings.
    """
    target = str(settings.get("_target_"))
    if precision == "16-mixed" and "fused" in settings:
        settings = {**settings, "fused": False}
    if not settings.get("_partial_"):
        raise UsageError(f"optimizer={target} is not _partial_: its parameters come later")
    try:
        partial = instantiate(dict(settings))
    except (HydraException, ImportError) as error:
        library = target.partition(".")[0]
        if _is_missing(error, library):
            raise UsageError(
                f"optimizer={target} needs {library}, which is not there: pip install {library}"
            ) from None
        raise UsageError(f"optimizer={target}: {str(error).splitlines()[0]}") from None

    def make(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> Optimizer:
        made = partial(list(parameters), lr=rate, weight_decay=weight_decay)
        assert isinstance(made, Optimizer)
        return made

    try:
        make([nn.Parameter()], 1e-3, 0.0)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"optimizer={target}: {error}") from None
    return make


def _is_missing(error: BaseException | None, library: str) -> bool:
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name == library:
            return True
        error = error.__cause__
    return False
