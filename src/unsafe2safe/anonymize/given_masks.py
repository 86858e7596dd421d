"""What the user says of images beside Stage 1: mask files, further boxes, and what may be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from unsafe2safe.anonymize.given_boxes import BoxesOf, GivenBox, read_boxes
from unsafe2safe.core.config.schema_masks import Masks
from unsafe2safe.core.errors import ItemError, UnreadableImage, UsageError
from unsafe2safe.core.files import inside
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.data.decode import decode_bytes, read_file
from unsafe2safe.data.source import ImageSource
from unsafe2safe.vision.masks import Shape, connected_shapes
from unsafe2safe.vision.regions import clipped, overlap

FROM_BOXES = "masks.boxes"  # sources of regions
FROM_FOLDER = "masks.folder"
GIVEN_KEYS = ("masks.folder", "masks.boxes", "masks.keep")

_ROUNDING = 1.0  # pixels that a box may stick out of the frame
# Detectors that look again tell these apart less well than those that looked first.
_ALIKE = {Category.PLATE: Category.TEXT, Category.HEAD: Category.FACE}


@dataclass(frozen=True, eq=False)
class Given:
    """What the user says of one image.

    ``shapes`` are the connected parts of its mask file, by their boxes, which are regions too;
    None: there is no such file, and the regions of Stage 1 are masked. ``missing``: there ought to
    be one. ``keep`` is what may stay as it is.
    """

    regions: tuple[Region, ...] = ()
    shapes: Mapping[Box, Shape] | None = None
    missing: bool = False
    keep: tuple[GivenBox, ...] = ()
    keep_share: float = 1.0

    def keeps(self, category: Category, box: Box) -> bool:
        """Whether what lies in ``box`` may stay: one box that says so, of this category or of all,
        holds ``keep_share`` of its area. Several boxes never add up."""
        return box.area > 0 and any(
            (kept.category is None or _alike(kept.category) == _alike(category))
            and overlap(box, kept.box) >= self.keep_share * box.area
            for kept in self.keep
        )


NOTHING_GIVEN = Given()


@dataclass(frozen=True, eq=False)
class GivenMasks:
    """The files behind ``masks.folder``, ``masks.boxes`` and ``masks.keep``, read and checked."""

    settings: Masks
    boxes: BoxesOf = field(default_factory=dict)
    keep: BoxesOf = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)  # mask files by image id

    @classmethod
    def open(cls, settings: Masks, source: ImageSource) -> GivenMasks:
        """Read what ``settings`` name.

        Raises:
            UsageError: something is not there or says something of an image that is not.
        """
        image_ids = [record.image_id for record in source.records()]

        def unlimited() -> list[str]:
            return [record.image_id for record in source.found()] if source.limit else image_ids

        boxes, keep = (
            read_boxes(
                path, key, image_ids, foreign_categories=key == FROM_BOXES, unlimited=unlimited
            )
            if path is not None
            else {}
            for key, path in (("masks.boxes", settings.boxes), ("masks.keep", settings.keep))
        )
        return cls(settings, boxes, keep, _mask_files(settings.folder, image_ids))

    def content(self) -> dict[str, str]:
        """Hashes of what the files hold, for run fingerprints; of no file none."""
        settings, hashes = self.settings, {}
        for key, path in (("masks.boxes", settings.boxes), ("masks.keep", settings.keep)):
            if path is not None:
                hashes[key] = blake2b(path.read_bytes(), digest_size=8).hexdigest()
        if settings.folder is not None:
            digest = blake2b(digest_size=8)
            for image_id, file in sorted(self.files.items()):
                digest.update(f"{image_id}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
            hashes["masks.folder"] = digest.hexdigest()
        return hashes

    def of(self, image_id: str, height: int, width: int) -> Given:
        """What is given for an image of ``height`` x ``width``.

        Raises:
            ItemError: a box lies outside of the frame, or the mask file is damaged or of another
                size.
        """
        regions = [
            Region(image_id, box, given.category or Category.OTHER, 1.0, FROM_BOXES)
            for given in self.boxes.get(image_id, ())
            for box in [_in_frame(given.box, "masks.boxes", image_id, height, width)]
        ]
        keep = tuple(
            GivenBox(_in_frame(given.box, "masks.keep", image_id, height, width), given.category)
            for given in self.keep.get(image_id, ())
        )
        shapes = self._shapes(image_id, height, width)
        regions += [Region(image_id, box, Category.OTHER, 1.0, FROM_FOLDER) for box in shapes or {}]
        wanted = self.settings.folder is not None and self.settings.missing == "review"
        missing = wanted and shapes is None
        return Given(tuple(regions), shapes, missing, keep, self.settings.keep_share)

    def _shapes(self, image_id: str, height: int, width: int) -> dict[Box, Shape] | None:
        if image_id not in self.files:
            return None
        try:
            decoded = decode_bytes(
                read_file(self.files[image_id], image_id), image_id, orientation="raster"
            )
        except UnreadableImage as error:
            raise ItemError(image_id, f"its mask in masks.folder: {error.reason}") from None
        found = decoded.pixels.shape[:2]
        if found != (height, width):
            raise ItemError(
                image_id,
                f"its mask in masks.folder is {found[1]} x {found[0]} pixels, the image "
                f"{width} x {height}",
            )
        return {shape.window.box: shape for shape in connected_shapes(decoded.pixels.max(axis=2))}


def _mask_files(folder: Path | None, image_ids: list[str]) -> dict[str, Path]:
    """The mask of each image that has one: ``a.jpg.png``, or ``a.png`` where only one image can be
    meant."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise UsageError(f"masks.folder={folder} is not a folder")
    stems = Counter(_stem(image_id) for image_id in image_ids)
    files = {}
    for image_id in image_ids:
        own, short = f"{image_id}.png", f"{_stem(image_id)}.png"
        if inside(folder, own).is_file():
            files[image_id] = folder / own
        elif inside(folder, short).is_file():
            if stems[_stem(image_id)] > 1:
                raise UsageError(
                    f"masks.folder={folder}: {short} may be of {image_id} or of another; name it "
                    f"{own}"
                )
            files[image_id] = folder / short
    if not files:
        raise UsageError(
            f"masks.folder={folder} holds a mask of no image; that of {image_ids[0]} would be "
            f"{_stem(image_ids[0])}.png"
        )
    return files


def _stem(image_id: str) -> str:
    return PurePosixPath(image_id).with_suffix("").as_posix()


def _in_frame(box: Box, key: str, image_id: str, height: int, width: int) -> Box:
    within = (
        min(box.x, box.y) >= -_ROUNDING
        and box.right <= width + _ROUNDING
        and box.bottom <= height + _ROUNDING
    )
    inner = clipped(box, width, height)
    if not within or inner.area <= 0:
        shown = ", ".join(f"{number:g}" for number in box)
        raise ItemError(
            image_id, f"{key}: box {shown} is not inside the image of {width} x {height} pixels"
        )
    return inner


def _alike(category: Category) -> Category:
    return _ALIKE.get(category, category)
