"""Who looks at edits beside the strict detectors, as ``verify`` names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from unsafe2safe.anonymize.judge import Judge
from unsafe2safe.anonymize.scene_truth import KnowsEdits, SceneTruth
from unsafe2safe.backends.base import ChatModel
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_choice
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.config.schema_verify import Chosen
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import fingerprint
from unsafe2safe.data.source import ImageSource
from unsafe2safe.vision.detectors import Detector

Built = TypeVar("Built")


@dataclass(frozen=True)
class Witnesses:
    """Further detectors, the truth about drawn scenes, and a judge, who is asked last, about what
    has passed all others. ``content`` is what of their settings counts for a run's fingerprint."""

    detectors: tuple[Detector, ...] = ()
    truth: SceneTruth | None = None
    judge: Judge | None = None
    content: Mapping[str, str] = field(default_factory=dict)


def build_witnesses(config: Anonymize, source: ImageSource) -> Witnesses:
    """The witnesses that ``config.verify`` names; no weights are loaded, no server is asked.

    Raises:
        UsageError: one does not exist, lacks what it needs, or cannot know the data set.
    """
    content: dict[str, str] = {}

    def built(chosen: Any, group: str, key: str, kind: type[Built]) -> Built:
        where = f"verify.{key}"
        try:
            settings = _settings(chosen, group)
            content[f"{where}.settings"] = fingerprint(settings)
            return build(settings, where, kind)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    verify = config.verify
    detectors = tuple(
        built(chosen, "detector", f"detectors.{number}", Detector)  # type: ignore[type-abstract]
        for number, chosen in enumerate(verify.detectors)
    )
    judge = None
    if verify.judge is not None:
        judge = Judge(built(verify.judge, "stage1/vlm", "judge", ChatModel), config.seed)  # type: ignore[type-abstract]
    truth = None
    if verify.truth != "none":
        if not isinstance(source, KnowsEdits):
            told = f"verify.truth={verify.truth} needs a data set whose truth is known"
            raise UsageError(f"{told}: dataset=synthetic")
        truth = SceneTruth(source)
    return Witnesses(detectors, truth, judge, content)


def _settings(chosen: Chosen | Mapping[str, Any], group: str) -> Mapping[str, Any]:
    if isinstance(chosen, Chosen):
        return compose_choice(group, chosen.name, chosen.overrides)
    return chosen
