"""The figures of images of one kind: small faces, many persons, one scene.

What kind an image is of is told by a few coarse words, which the unit files hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic.attributes import UNITS
from unsafe2safe.evaluation.comparisons import Items, Named
from unsafe2safe.evaluation.results import Stratum
from unsafe2safe.metrics.base import Metric, SceneTruth, SetMetric
from unsafe2safe.metrics.features import ImageFeatures

FACE_SIZES = ("none", "small", "medium", "large")
COUNTS = ("0", "1", "2-4", "5+")
_MEDIUM, _LARGE = 0.1, 0.25  # height of the largest face as a share of the image's
_LEAST = 5  # images of a stratum
_MOST_LABELS = 20  # different ones that make strata
_MOST_DRAWS = 300  # bootstrap draws of a stratum: there are many of them
_TO_HEIGHT = 2.28  # of a drawn head, in radii
LABEL = "label"


def kinds_of(
    original: ImageFeatures, truth: SceneTruth | None, label: str | None
) -> dict[str, str]:
    """What kind of image an original is, by what divides the images.

    ``face_size`` by the largest face's height, ``persons`` by how many there are (of photographs:
    faces), ``label`` the class that the data set gives it, if any.
    """
    if truth is not None:
        spots = truth.redrawn.source.public.spots
        heights = [spot.radius * _TO_HEIGHT / UNITS for spot in spots]
    else:
        heights = [face.box.height / original.size[0] for face in original.faces]
    kinds = {"face_size": _size(max(heights, default=0.0)), "persons": _count(len(heights))}
    if label is not None:
        kinds[LABEL] = label
    return kinds


def _size(height: float) -> str:
    if height <= 0:
        return "none"
    return "small" if height < _MEDIUM else "medium" if height < _LARGE else "large"


def _count(persons: int) -> str:
    return str(persons) if persons < 2 else "2-4" if persons < 5 else "5+"


def stratify(
    items: Items,
    kinds: Sequence[Mapping[str, str]],
    rows: Sequence[Named],
    metrics: Mapping[str, Metric],
    *,
    samples: int,
    seed: int,
) -> tuple[Stratum, ...]:
    """The figures of every stratum with at least five images, for metrics with values of images.

    ``kinds`` tells of each of ``items`` what kind it is (:func:`kinds_of`). What has one value
    for all images divides nothing and is left out, as are labels of more than twenty kinds.
    """
    chosen = {name: m for name, m in metrics.items() if not isinstance(m, SetMetric)}
    strata = []
    for by in dict.fromkeys(by for kind in kinds for by in kind):
        values = _order(by, {kind[by] for kind in kinds if by in kind})
        if len(values) < 2 or (by == LABEL and len(values) > _MOST_LABELS):
            continue
        for value in values:
            some = [item for item, kind in zip(items, kinds, strict=True) if kind.get(by) == value]
            if len(some) < _LEAST:
                continue
            figures = {
                row.name: {
                    name: metric.aggregate(
                        [item[row.name].scores[name] for item in some],
                        min(samples, _MOST_DRAWS),
                        generator(seed, f"{by} {value}", 0, f"bootstrap {name}"),
                    )
                    for name, metric in chosen.items()
                }
                for row in rows
            }
            strata.append(Stratum(by, value, len(some), figures))
    return tuple(strata)


def _order(by: str, values: set[str]) -> list[str]:
    known = {"face_size": FACE_SIZES, "persons": COUNTS}.get(by)
    return sorted(values, key=known.index) if known else sorted(values)
