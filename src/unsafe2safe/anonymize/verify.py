"""Looking again: is an edited image private, and is it still faithful to its source?

Both are needed to publish. What is looked at is the decoded file as it would be published, by the
strict detectors (half the threshold, mirrored, at half and double size), never the first look's,
and by whatever further detectors are configured. ``verify.look=edited`` is for those whom the first
look's face detector suffices, at what was edited.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.given_masks import FROM_BOXES, FROM_FOLDER
from unsafe2safe.anonymize.mask_making import SECOND_LOOK
from unsafe2safe.anonymize.region_editing import edited_windows
from unsafe2safe.core.config.schema_verify import Verify
from unsafe2safe.core.records import Box, Category, Check, Region
from unsafe2safe.editors.base import Editor, Mask, Pixels
from unsafe2safe.metrics.structure import mean_ssim, windows
from unsafe2safe.vision.detectors import Detection, Detector
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.masks import Window
from unsafe2safe.vision.matching import text_leaks
from unsafe2safe.vision.regions import covered, overlap
from unsafe2safe.vision.strokes import stroke_correlation
from unsafe2safe.vision.text import TextLine

_INSIDE = 0.5  # share of a detection under the mask from which it counts as edited content
_NOISE_FLOOR = 12.0  # grey levels; sensor noise and texture stay below, random pixels far above
_FLAT = 6.0  # grey levels of contrast below which a region holds nothing to be changed
_UNCHANGED_SSIM = 0.95
_LEAST_MASKED = 0.1  # share of a region's box from which its mask counts as its own
_LETTERED = (Category.TEXT, Category.PLATE)
_UNSEEN_FACE = 0.75  # share of the identity limit that holds where no strict detector sees a face


@dataclass(frozen=True)
class Verdict:
    """Checks of one attempt, and regions that it had missed.

    ``only_missed``: with those regions under the mask, nothing of what is wrong would have been.
    """

    checks: tuple[Check, ...]
    missed: tuple[Region, ...]
    only_missed: bool = False

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Names of the failed checks; no private content."""
        return ", ".join(check.name for check in self.checks if not check.passed)


@dataclass(frozen=True)
class _Judged:
    """A check, and whether what lies under the mask, taken alone, would pass it."""

    check: Check
    inside: bool


def verify(
    candidate: Candidate,
    published: Pixels,
    mask: Mask,
    settings: Verify,
    editor: Editor,
    detectors: Sequence[Detector] = (),
) -> Verdict:
    """Judge ``published`` (H, W, 3), the pixels that the written file would show."""
    source = candidate.image.pixels
    if published.shape != source.shape:
        return Verdict((_at_most("size_mismatch", 1.0, 0.0),), ())
    faithful = [
        *_fidelity(source, published, mask, settings),
        _unchanged(candidate, published, mask),
    ]
    if settings.truth == "only":
        return Verdict(tuple(one.check for one in faithful), ())
    seen_faces, seen_lines = _seen(candidate, published, mask, settings)
    seen_others = further_look(published, detectors)
    faces, lines = candidate.counted_faces(seen_faces), candidate.counted_lines(seen_lines)
    others = candidate.counted_others(seen_others)
    kept = len(seen_faces) + len(seen_lines) + len(seen_others)
    kept -= len(faces) + len(lines) + len(others)
    judged = [
        *map(_alike, _kept(candidate, kept)),
        *faithful,
        *_face_checks(candidate, published, faces, others, mask, settings, editor),
        *_text_checks(candidate, lines, mask, settings),
        *_plate_checks(candidate, published, settings),
        *_stroke_checks(candidate, published, mask, settings),
    ]
    if detectors:
        unseen = sum(covered(found.box, mask) < _INSIDE for found in others)
        judged.append(_Judged(_at_most("others_missed", float(unseen), 0.0), inside=True))
    missed = tuple(second_look(candidate.image_id, faces, lines, mask, others))
    only_missed = bool(missed) and all(one.inside for one in judged)
    return Verdict(tuple(one.check for one in judged), missed, only_missed)


def _seen(
    candidate: Candidate, published: Pixels, mask: Mask, settings: Verify
) -> tuple[list[Face], list[TextLine]]:
    """Faces and text of the whole image by the strict detectors; with ``look=edited``, of what
    was edited."""
    perception = candidate.perception
    edited = edited_windows(mask) if settings.look == "edited" else []
    if not edited:  # what is to go out as it is, is looked at as a whole
        return perception.verify_faces(published), perception.verify_text(published)
    lettered = [r.box for r in candidate.sensitive_regions if r.category in _LETTERED]
    with_text = [window for window in edited if _touches(window.box, lettered)]
    sides = [least_face(window, candidate.regions) for window in edited]
    faces = perception.look_again(published, edited, sides)
    return faces, perception.read_again(published, with_text)


def least_face(window: Window, regions: Sequence[Region]) -> float:
    """Shorter side in pixels of the least face in ``window``; 0 where it holds more than faces, or
    what a user has drawn by hand, in which a face of any size may be."""
    within = [region for region in regions if overlap(window.box, region.box) > 0]
    if any(r.category != Category.FACE or r.source in (FROM_BOXES, FROM_FOLDER) for r in within):
        return 0.0
    return min((min(region.box.width, region.box.height) for region in within), default=0.0)


def further_look(image: Pixels, detectors: Sequence[Detector]) -> list[Detection]:
    """What further detectors find in ``image`` (H, W, 3)."""
    return [found for detector in detectors for found in detector.detect(image)]


def _kept(candidate: Candidate, detections: int) -> list[Check]:
    """For the record: regions left unmasked and detections left uncounted by consent."""
    if not candidate.given.keep:
        return []
    regions = float(len(candidate.regions) - len(candidate.sensitive_regions))
    return [
        Check("kept_regions", regions, regions, passed=True),
        Check("kept_detections", float(detections), float(detections), passed=True),
    ]


def second_look(
    image_id: str,
    faces: Sequence[Face],
    lines: Sequence[TextLine],
    mask: Mask | None,
    others: Sequence[Detection] = (),
) -> list[Region]:
    """Regions of detections outside the mask: what the first look had missed."""
    seen = [(Category.FACE, face.box, face.score) for face in faces]
    seen += [(Category.TEXT, line.box, line.score) for line in lines]
    seen += [(found.category, found.box, found.score) for found in others]
    return [
        Region(image_id, box, category, float(score), SECOND_LOOK)
        for category, box, score in seen
        if mask is None or covered(box, mask) < _INSIDE
    ]


def noise_level(image: Pixels, where: NDArray[np.bool_]) -> float:
    """Robust noise estimate in grey levels: median absolute Laplacian (Immerkaer 1996, with the
    median in place of the mean so that edges do not count)."""
    if not where.any():
        return 0.0
    rows, columns = (  # of a large image only the part that counts, and what the kernel reaches
        slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2)
        for found in (np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0)))
    )
    luma = cv2.cvtColor(image[rows, columns], cv2.COLOR_RGB2GRAY).astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))
    return float(np.median(response[where[rows, columns]]) / (0.6745 * 6.0))


def _fidelity(source: Pixels, published: Pixels, mask: Mask, settings: Verify) -> Iterator[_Judged]:
    inside = mask > 0
    outside = windows(inside, "outside")
    if outside.any():
        outside_ssim = mean_ssim(source, published, outside)
        yield _alike(_at_least("outside_ssim", outside_ssim, settings.min_outside_ssim))
    contrast = float(cv2.meanStdDev(cv2.cvtColor(published, cv2.COLOR_RGB2GRAY))[1][0, 0])
    yield _alike(_at_least("contrast", contrast, settings.min_contrast))
    where = inside if inside.any() else np.ones_like(inside)
    most = max(settings.max_noise * noise_level(source, where), _NOISE_FLOOR)
    yield _alike(_at_most("noise", noise_level(published, where), most))


def _unchanged(candidate: Candidate, published: Pixels, mask: Mask) -> _Judged:
    """Share of sensitive regions that the editor left as they were.

    A detector that goes blind must not let the source through: what was asked to change has to
    have changed, whatever the detectors see afterwards.
    """
    source = candidate.image.pixels
    left, counted = 0, 0
    for region in candidate.regions:
        window = _window(region.box, mask)
        # Of an outline, or of a mask of any shape, a box holds pixels that must stay as they are.
        masked = windows(mask[window] > 0.5, "inside")
        if masked.sum() < _LEAST_MASKED * max(masked.size, 1) or not masked.any():
            continue
        luma = cv2.cvtColor(source[window], cv2.COLOR_RGB2GRAY)
        own = (mask[window] > 0.5).view(np.uint8)
        if cv2.meanStdDev(luma, mask=own)[1][0, 0] < _FLAT:
            continue
        counted += 1
        similarity = mean_ssim(source[window], published[window], masked)
        left += bool(similarity > _UNCHANGED_SSIM)
    if counted == 0 and not candidate.only_metadata and not mask.any():
        return _alike(_at_most("nothing_masked", 1.0, 0.0))
    return _alike(_at_most("unchanged_regions", left / max(counted, 1), 0.0))


def _face_checks(
    candidate: Candidate,
    published: Pixels,
    faces: Sequence[Face],
    others: Sequence[Detection],
    mask: Mask,
    settings: Verify,
    editor: Editor,
) -> Iterator[_Judged]:
    absent = settings.faces == "absent" or (settings.faces == "editor" and not editor.draws_faces)
    boxes = [face.box for face in faces]
    seen_otherwise = [found.box for found in others if found.category == Category.FACE]
    under = [covered(box, mask) >= _INSIDE for box in (*boxes, *seen_otherwise)]
    if absent:
        yield _Judged(_at_most("faces_found", float(len(under)), 0.0), inside=not any(under))
        return
    missed = under[: len(faces)].count(False)
    yield _Judged(_at_most("faces_missed", float(missed), 0.0), inside=True)
    if candidate.source_faces:
        least = settings.identity_distance
        unseen = [box for box in seen_otherwise if not _touches(box, boxes)]
        found = list(_identity_distances(candidate, published, faces, unseen, mask))
        nearest = min((distance for distance, _ in found), default=np.inf)
        inside = min((distance for distance, under in found if under), default=np.inf)
        yield _Judged(_at_least("identity_distance", nearest, least), inside >= least)


def _identity_distances(
    candidate: Candidate,
    published: Pixels,
    faces: Sequence[Face],
    unseen: Sequence[Box],
    mask: Mask,
) -> Iterator[tuple[float, bool]]:
    """Of each edited face the distance to the nearest source face, and whether it is under the
    mask; then the same of each source face's own place.

    The source's own places are embedded whatever a detector says, since a blind detector must not
    hide a leak. Where it sees no face, there and at places that only another detector calls a face
    (``unseen``), the embedding is of something else and lies near by chance, so there the limit is
    lower; distances are scaled to let one number speak for both.
    """
    identity = candidate.perception.identity
    source = candidate.source_embeddings
    boxes = [face.box for face in faces]
    embedded = np.concatenate(
        [identity.embed(published, faces), identity.embed_boxes(published, unseen)]
    )
    if len(embedded):  # an edit that only blurs a face is near its source blurred
        known = np.concatenate([source, candidate.reduced_embeddings])
        nearest = identity.distance(known, embedded).min(axis=0)
        for distance, box in zip(nearest, (*boxes, *unseen), strict=True):
            scale = 1.0 if box in boxes else _UNSEEN_FACE
            yield float(distance) / scale, covered(box, mask) >= _INSIDE
    places = [face.box for face in candidate.source_faces]
    own_places = identity.embed_boxes(published, places)
    for embedding, place, box in zip(source, own_places, places, strict=True):
        scale = 1.0 if _touches(box, boxes) else _UNSEEN_FACE
        yield float(np.linalg.norm(embedding - place)) / scale, covered(box, mask) >= _INSIDE


def _text_checks(
    candidate: Candidate, lines: Sequence[TextLine], mask: Mask, settings: Verify
) -> Iterator[_Judged]:
    under = [line for line in lines if covered(line.box, mask) >= _INSIDE]
    # Where nothing can be read nothing can be read again: the source need not be read for that.
    leaked, leaked_inside = (
        sum(text_leaks(candidate.source_texts, [line.text for line in some], settings.leak_ratio))
        if some
        else 0
        for some in (lines, under)
    )
    yield _Judged(_at_most("texts_readable", float(leaked), 0.0), inside=leaked_inside == 0)
    yield _Judged(_at_most("texts_missed", float(len(lines) - len(under)), 0.0), inside=True)


def _plate_checks(candidate: Candidate, published: Pixels, settings: Verify) -> Iterator[_Judged]:
    """Plates are read once more each by itself and enlarged: small in the frame, they are missed
    there, and most of the characters of one tell which it is."""
    plates = [region.box for region in candidate.regions if region.category == Category.PLATE]
    if not plates:
        return
    leaked = 0
    for box in plates:
        texts = candidate.source_plate(box)
        read = candidate.perception.verify_plate(published, box)
        leaked += any(text_leaks(texts, read, settings.plate_leak_ratio))
    yield _alike(_at_most("plates_readable", float(leaked), 0.0))


def _stroke_checks(
    candidate: Candidate, published: Pixels, mask: Mask, settings: Verify
) -> Iterator[_Judged]:
    """Letters that were blurred are no longer read long before people cannot read them."""
    found = []
    for region in candidate.sensitive_regions:
        if region.category not in _LETTERED:
            continue
        window = _window(region.box, mask)
        masked = mask[window] > 0.5  # a box holds pixels, too, that must stay as they are
        if masked.sum() < _LEAST_MASKED * max(masked.size, 1):
            continue
        source = candidate.image.pixels[window]
        found.append(stroke_correlation(source, published[window], masked))
    if found:
        yield _alike(_at_most("letters_alike", max(found), settings.letters_alike))


def _touches(box: Box, others: Sequence[Box]) -> bool:
    return any(overlap(other, box) > 0 for other in others)


def _window(box: Box, mask: Mask) -> tuple[slice, slice]:
    height, width = mask.shape
    top, left = max(int(box.y), 0), max(int(box.x), 0)
    return (
        slice(top, min(int(np.ceil(box.bottom)), height)),
        slice(left, min(int(np.ceil(box.right)), width)),
    )


def _alike(check: Check) -> _Judged:
    """Of a check that no missed region explains."""
    return _Judged(check, check.passed)


def _at_least(name: str, value: float, threshold: float) -> Check:
    return Check(name, value, threshold, bool(value >= threshold))


def _at_most(name: str, value: float, threshold: float) -> Check:
    return Check(name, value, threshold, bool(value <= threshold))
