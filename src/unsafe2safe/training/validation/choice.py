"""What a validation measures, and which figures of it stand for privacy and fidelity."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import ValidationError

from unsafe2safe.core.config.components import build, nearest
from unsafe2safe.core.config.schema_train import Validation
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.randomness import generator
from unsafe2safe.editors.base import Editor
from unsafe2safe.metrics.base import ItemScore, Metric
from unsafe2safe.metrics.faces import FaceLeakRate, FaceSim
from unsafe2safe.metrics.scene_truth import Followed, Leaked, OutsidePsnr, OutsideSsim, Reidentified
from unsafe2safe.metrics.structure import PsnrOutside, SsimInside, SsimOutside
from unsafe2safe.metrics.text import TextLeakRecall
from unsafe2safe.metrics.truth import AVERAGED
from unsafe2safe.training.validation.results import Point

AUTO = "auto"
_OF_A_POINT = ("balance", "privacy", "fidelity")


@dataclass(frozen=True)
class MetricSet:
    """The metrics of a task, and what `auto` means with them: the worst of the first group of which
    any has a value."""

    metrics: Mapping[str, Metric]
    privacy: tuple[tuple[str, ...], ...]
    fidelity: tuple[tuple[str, ...], ...]


PICTURES = MetricSet(
    {
        "face_sim": FaceSim(),
        "face_leak_rate": FaceLeakRate(),
        "text_leak_recall": TextLeakRecall(),
        "ssim_inside": SsimInside(),
        "ssim_outside": SsimOutside(),
        "psnr_outside": PsnrOutside(),
    },
    # where nobody and nothing can be recognised, that something was changed at all
    privacy=(("face_sim", "text_leak_recall"), ("ssim_inside",)),
    fidelity=(("ssim_outside",),),
)
SCENES = MetricSet(
    {
        "followed": Followed(attributes=AVERAGED),
        "leaked": Leaked(attributes=AVERAGED),
        "leaked_letters": Leaked(attributes=("letters",)),
        "reidentified": Reidentified(),
        "outside_ssim": OutsideSsim(),
        "outside_psnr": OutsidePsnr(),
    },
    privacy=(("leaked",), ("leaked_letters",)),
    fidelity=(("outside_ssim",),),
)


@dataclass(frozen=True)
class ValidationChoice:
    """``guidance``: each point's settings of the editor, all that it has."""

    metrics: Mapping[str, Metric]
    privacy: tuple[tuple[str, ...], ...]
    fidelity: tuple[tuple[str, ...], ...]
    best: str
    guidance: tuple[Mapping[str, float], ...]

    def point(
        self, guidance: Mapping[str, float], scores: Mapping[str, Sequence[ItemScore]]
    ) -> Point:
        """The figures of the scores of all pictures, in a fixed order.

        Raises:
            UsageError: what stands for privacy or fidelity has no value on these pictures.
        """
        values = {}
        for name, found in scores.items():
            result = self.metrics[name].aggregate(found, 1, generator(0, name))
            if result.value is not None:
                values[name] = float(result.value)
        return Point(
            dict(guidance),
            self._worst("privacy", self.privacy, values),
            self._worst("fidelity", self.fidelity, values),
            values,
        )

    def _worst(
        self, key: str, groups: tuple[tuple[str, ...], ...], values: Mapping[str, float]
    ) -> float:
        for group in groups:
            found = [self._oriented(name, values[name]) for name in group if name in values]
            if found:
                return min(min(max(value, 0.0), 1.0) for value in found)
        raise _nothing_measured(key, groups)

    def check_measured(self, names: Collection[str]) -> None:
        """Whether metrics of which ``names`` have values say what privacy and fidelity are.

        Raises:
            UsageError: they do not.
        """
        for key, groups in (("privacy", self.privacy), ("fidelity", self.fidelity)):
            if not any(name in names for group in groups for name in group):
                raise _nothing_measured(key, groups)

    def _oriented(self, name: str, value: float) -> float:
        return 1.0 - value if self.metrics[name].direction == "down" else value

    def scalar(self, point: Point) -> float:
        """What `best` is best in; more is better."""
        if self.best in _OF_A_POINT:
            return float(getattr(point, self.best))
        value = point.metrics.get(self.best)
        return float("-inf") if value is None else self._oriented(self.best, value)


def _nothing_measured(key: str, groups: tuple[tuple[str, ...], ...]) -> UsageError:
    names = ", ".join(name for group in groups for name in group)
    return UsageError(
        f"validation.{key}: on none of the validation pictures is there anything to be measured by "
        f"{names}; choose another metric, or more validation.samples"
    )


def choose(settings: Validation, usual: MetricSet, editor: Editor) -> ValidationChoice:
    """What ``validation`` asks for of a task whose own metrics are ``usual``.

    Raises:
        UsageError: a metric or a guidance setting that is not there, or that says neither better
            nor worse.
    """
    metrics: Mapping[str, Metric] = {
        name: build(content, f"validation.metrics.{name}", Metric)  # type: ignore[type-abstract]
        for name, content in settings.metrics.items()
    } or usual.metrics
    if settings.best not in _OF_A_POINT:
        _check(metrics, "best", settings.best, bounded=False, also=_OF_A_POINT)
    return ValidationChoice(
        metrics=metrics,
        privacy=_groups(metrics, "privacy", settings.privacy, usual.privacy),
        fidelity=_groups(metrics, "fidelity", settings.fidelity, usual.fidelity),
        best=settings.best,
        guidance=_guidance(settings, editor),
    )


def _groups(
    metrics: Mapping[str, Metric], key: str, chosen: str, usual: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, ...], ...]:
    if chosen != AUTO:
        _check(metrics, key, chosen, bounded=True, also=(AUTO,))
        return ((chosen,),)
    there = tuple(tuple(name for name in group if name in metrics) for group in usual)
    if not any(there):
        names = ", ".join(name for group in usual for name in group)
        raise UsageError(
            f"validation.{key}=auto needs one of {names}, and validation.metrics has none of them"
        )
    return tuple(group for group in there if group)


def _check(
    metrics: Mapping[str, Metric], key: str, name: str, *, bounded: bool, also: tuple[str, ...]
) -> None:
    if name not in metrics:
        raise UsageError(
            f"validation.{key}={name} is no metric of this validation"
            f"{nearest(name, (*metrics, *also))}"
        )
    if metrics[name].direction == "none":
        raise UsageError(f"validation.{key}={name}: more of it is neither better nor worse")
    if bounded and not metrics[name].bounded:
        raise UsageError(f"validation.{key}={name} is not in [0, 1]")


def guidance_of(editor: Editor) -> dict[str, float]:
    """The settings of ``editor`` that say how strongly an edit follows what."""
    names = [field.name for field in fields(editor) if "guidance" in field.name]
    return {name: float(getattr(editor, name)) for name in names}


def _guidance(settings: Validation, editor: Editor) -> tuple[Mapping[str, float], ...]:
    own = guidance_of(editor)
    points: list[Mapping[str, float]] = []
    for given in settings.guidance or ({},):
        for name, value in given.items():
            if name not in own:
                raise UsageError(
                    f"validation.guidance: editor={editor.name} has no guidance {name!r}"
                    f"{nearest(name, own)}"
                )
            _check_guidance(editor, name, value)
        point = own | {name: float(value) for name, value in given.items()}
        if point in points:
            raise UsageError(f"validation.guidance names {dict(given)} twice")
        points.append(point)
    return tuple(points)


def _check_guidance(editor: Any, name: str, value: float) -> None:
    try:
        replace(editor, **{name: value})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]["msg"]
        message = fault[:1].lower() + fault[1:]
        raise UsageError(f"validation.guidance: {name}={value:g}: {message}") from None
