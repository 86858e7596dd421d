"""Which regions of an image are masked, which may stay, and the mask that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from unsafe2safe.anonymize.given_masks import FROM_BOXES, FROM_FOLDER, Given
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.editors.base import Mask
from unsafe2safe.vision.masks import Shape, Window, mask_of_shapes
from unsafe2safe.vision.regions import grow_region, overlap

SECOND_LOOK = "second_look"  # source of regions that verification adds

_REDACTED = (Category.FACE, Category.HEAD, Category.TEXT, Category.PLATE)
_TELLS_WHO = (Category.FACE, Category.HEAD, Category.OTHER)
_OUTLINE_MARGIN = 0.25  # of the margin: an outline follows the person already
_MOST_OF = 0.5


def default_categories(redraws: bool) -> tuple[Category, ...]:
    """What is masked unless the configuration says otherwise.

    Editors that draw anew may change a whole person; a redaction would wipe it out, so there the
    face, or the head, has to do.
    """
    return (*_REDACTED, Category.PERSON) if redraws else _REDACTED


def is_masked(region: Region, given: Given, categories: Collection[Category] | None) -> bool:
    """Whether a region is masked; ``categories`` None: of any category.

    What the user asks for always is, whatever else may be kept. A mask file stands in place of
    Stage 1's regions, not of what verification adds.
    """
    if region.source in (FROM_BOXES, FROM_FOLDER):
        return True
    if given.keeps(region.category, region.box):
        return False
    if given.shapes is not None and region.source != SECOND_LOOK:
        return False
    return categories is None or region.category in categories


def left_open(regions: Sequence[Region], masked: Sequence[Region], given: Given) -> list[Region]:
    """Regions that are neither masked nor kept nor dealt with by another one.

    Anything is dealt with by a mask that holds most of it, and a person also by a face or head
    that is masked or kept, or by something that the user wants masked.
    """
    kept = [region for region in regions if given.keeps(region.category, region.box)]
    settled = {id(region) for region in (*masked, *kept)}
    of_persons = [other for other in (*masked, *kept) if other.category in _TELLS_WHO]
    return [
        region
        for region in regions
        if id(region) not in settled
        and not any(_most_in(region.box, other.box) for other in masked)
        and not (
            region.category == Category.PERSON
            and any(_most_in(other.box, region.box) for other in of_persons)
        )
    ]


def make_mask(
    masked: Sequence[Region],
    given: Given,
    outline: Callable[[Box], Shape | None],
    size: tuple[int, int],
    margin: float,
    config: Anonymize,
) -> Mask:
    """(H, W) float32 of ``size``: 1 over each region grown by ``margin``, and the feathered rim.

    ``outline`` gives the silhouette of the person in a box. A mask file is used as it is, and
    grown by what ``margin`` exceeds the configured one.
    """
    height, width = size
    settings, shapes = config.masks, []
    for region in masked:
        shape, growth = None, 0.0
        if region.source == FROM_FOLDER and given.shapes is not None:
            shape = given.shapes[region.box]
            growth = max(margin - config.margin, 0.0) * shape.shorter_side
        elif region.category == Category.PERSON and settings.person == "silhouette":
            shape = outline(region.box)
            growth = _OUTLINE_MARGIN * margin * shape.shorter_side if shape else 0.0
        if shape is None:
            box = grow_region(region.category, region.box, margin, width, height)
            shape = Shape(Window.of(box, height, width))
        feather = 0.0
        if config.region != "full":
            unit = shape.shorter_side if settings.feather_unit == "share" else 1.0
            feather = settings.feather * unit
        shapes.append((shape, growth, feather))
    return mask_of_shapes(shapes, height, width)


def _most_in(inner: Box, outer: Box) -> bool:
    """Whether at least half of ``inner`` lies in ``outer``."""
    return inner.area > 0 and overlap(inner, outer) >= _MOST_OF * inner.area
