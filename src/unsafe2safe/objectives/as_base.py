"""The model goes on predicting what its base predicts."""

from __future__ import annotations

from dataclasses import fields

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.objectives.base import Objective, ObjectiveSettings
from unsafe2safe.objectives.edm_v import EdmVelocity
from unsafe2safe.objectives.epsilon import Epsilon
from unsafe2safe.objectives.flow import FlowMatching
from unsafe2safe.objectives.v import Velocity

_KINDS = (Epsilon, Velocity, FlowMatching, EdmVelocity)


@component
class AsBase(ObjectiveSettings):
    """The objective that the base's scheduler asks for, with its defaults beside these settings."""

    def for_base(self, prediction_type: str, base: str) -> Objective:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        for kind in _KINDS:
            if kind.prediction_type == prediction_type:
                return kind(**settings).for_base(prediction_type, base)
        raise UsageError(
            f"objective={self.name}: the scheduler of {base} expects {prediction_type}, which no "
            "objective trains"
        )
