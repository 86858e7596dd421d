"""The learning rate over a run, as a share of its peak."""

from __future__ import annotations

import math

from unsafe2safe.core.config.schema_train import Trainer


def rate_share(settings: Trainer, step: int) -> float:
    """Share of ``settings.learning_rate`` that optimizer step ``step`` (from 0) is taken with.

    Linear warm-up first. Then the peak: to the end with ``schedule=constant``; with ``cosine``
    until ``hold`` of all steps are done, and from there along half a cosine (Loshchilov and
    Hutter 2017, eq. 5, one period) that would reach 0 one step after the last.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    begin = max(settings.warmup_steps, round(settings.hold * settings.max_steps))
    if step < begin:
        return 1.0
    # Lightning asks for the rate of the step after the last one, too.
    progress = min(1.0, (step - begin) / max(1, settings.max_steps - begin))
    return 0.5 * (1.0 + math.cos(math.pi * progress))
