"""The model goes on predicting what its base predicts."""

from __future__ import annotations

from dataclasses import fields

from unsafe2safe.core.config.components import component
from unsafe2safe.objectives.base import Objective, ObjectiveSettings, PredictionType
from unsafe2safe.objectives.epsilon import Epsilon
from unsafe2safe.objectives.v import Velocity


@component
class AsBase(ObjectiveSettings):
    """The objective that the base's scheduler asks for."""

    def for_base(self, prediction_type: PredictionType, base: str) -> Objective:  # noqa: ARG002
        kind = {known.prediction_type: known for known in (Epsilon, Velocity)}[prediction_type]
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return kind(**settings)
