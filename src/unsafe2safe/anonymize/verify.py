"""Looking again: is an edited image private, and is it still faithful to its source?

Both are needed to publish. What is looked at is the decoded file as it would be published, by the
strict detectors (half the threshold, mirrored, at half and double size), never the first look's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.core.config.schema import Verify
from unsafe2safe.core.records import Box, Category, Check, Region
from unsafe2safe.editors.base import Editor, Mask, Pixels
from unsafe2safe.metrics.structure import WINDOW, ssim_map, windows
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.matching import text_leaks
from unsafe2safe.vision.regions import covered, overlap
from unsafe2safe.vision.text import TextLine

_INSIDE = 0.5  # share of a detection under the mask from which it counts as edited content
_NOISE_FLOOR = 12.0  # grey levels; sensor noise and texture stay below, random pixels far above
_FLAT = 6.0  # grey levels of contrast below which a region holds nothing to be changed
_UNCHANGED_SSIM = 0.95
_UNSEEN_FACE = 0.75  # share of the identity limit that holds where no detector sees a face


@dataclass(frozen=True)
class Verdict:
    """Checks of one attempt, and regions that it had missed."""

    checks: tuple[Check, ...]
    missed: tuple[Region, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Names of the failed checks; no private content."""
        return ", ".join(check.name for check in self.checks if not check.passed)


def verify(
    candidate: Candidate, published: Pixels, mask: Mask, settings: Verify, editor: Editor
) -> Verdict:
    """Judge ``published`` (H, W, 3), the pixels that the written file would show."""
    source = candidate.image.pixels
    if published.shape != source.shape:
        return Verdict((_at_most("size_mismatch", 1.0, 0.0),), ())
    faces = list(candidate.perception.verify_faces(published))
    lines = list(candidate.perception.verify_text(published))
    checks = [
        *_fidelity(source, published, mask, settings),
        _unchanged(candidate, published, mask),
        *_face_checks(candidate, published, faces, mask, settings, editor),
        *_text_checks(candidate, lines, mask, settings),
    ]
    return Verdict(tuple(checks), tuple(second_look(candidate.image_id, faces, lines, mask)))


def second_look(
    image_id: str, faces: Sequence[Face], lines: Sequence[TextLine], mask: Mask | None
) -> list[Region]:
    """Regions of detections outside the mask: what the first look had missed."""
    seen = [(Category.FACE, face.box, face.score) for face in faces]
    seen += [(Category.TEXT, line.box, line.score) for line in lines]
    return [
        Region(image_id, box, category, float(score), "second_look")
        for category, box, score in seen
        if mask is None or covered(box, mask) < _INSIDE
    ]


def noise_level(image: Pixels, where: NDArray[np.bool_]) -> float:
    """Robust noise estimate in grey levels: median absolute Laplacian (Immerkaer 1996, with the
    median in place of the mean so that edges do not count)."""
    if not where.any():
        return 0.0
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel))
    return float(np.median(response[where]) / (0.6745 * 6.0))


def _fidelity(source: Pixels, published: Pixels, mask: Mask, settings: Verify) -> list[Check]:
    inside = mask > 0
    checks = []
    outside = windows(inside, "outside")
    if outside.any():
        outside_ssim = float(ssim_map(source, published)[outside].mean())
        checks.append(_at_least("outside_ssim", outside_ssim, settings.min_outside_ssim))
    contrast = float(cv2.cvtColor(published, cv2.COLOR_RGB2GRAY).std())
    checks.append(_at_least("contrast", contrast, settings.min_contrast))
    where = inside if inside.any() else np.ones_like(inside)
    most = max(settings.max_noise * noise_level(source, where), _NOISE_FLOOR)
    checks.append(_at_most("noise", noise_level(published, where), most))
    return checks


def _unchanged(candidate: Candidate, published: Pixels, mask: Mask) -> Check:
    """Share of sensitive regions that the editor left as they were.

    A detector that goes blind must not let the source through: what was asked to change has to
    have changed, whatever the detectors see afterwards.
    """
    source = candidate.image.pixels
    luma = cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)
    left, counted = 0, 0
    for region in candidate.regions:
        if covered(region.box, mask) < _INSIDE:
            continue
        window = _window(region.box, mask)
        if min(luma[window].shape) < WINDOW or luma[window].std() < _FLAT:
            continue
        counted += 1
        left += bool(ssim_map(source[window], published[window]).mean() > _UNCHANGED_SSIM)
    if counted == 0 and not candidate.only_metadata and not mask.any():
        return _at_most("nothing_masked", 1.0, 0.0)
    return _at_most("unchanged_regions", left / max(counted, 1), 0.0)


def _face_checks(
    candidate: Candidate,
    published: Pixels,
    faces: Sequence[Face],
    mask: Mask,
    settings: Verify,
    editor: Editor,
) -> list[Check]:
    absent = settings.faces == "absent" or (settings.faces == "editor" and not editor.draws_faces)
    if absent:
        return [_at_most("faces_found", float(len(faces)), 0.0)]
    missed = sum(covered(face.box, mask) < _INSIDE for face in faces)
    checks = [_at_most("faces_missed", float(missed), 0.0)]
    if candidate.source_faces:
        distance, least = _identity_distance(candidate, published, faces, settings)
        checks.append(_at_least("identity_distance", distance, least))
    return checks


def _identity_distance(
    candidate: Candidate, published: Pixels, faces: Sequence[Face], settings: Verify
) -> tuple[float, float]:
    """Distance of the nearest edited face to a source face, and the least allowed.

    The source's own places are embedded whatever a detector says, since a blind detector must not
    hide a leak. Where it sees no face the embedding is of something else and lies near by chance,
    so there the limit is lower; distances are scaled to let one number speak for both.
    """
    identity = candidate.perception.identity
    source = candidate.source_embeddings
    limit = settings.identity_distance
    nearest = np.inf
    if faces:
        nearest = float(identity.distance(source, identity.embed(published, faces)).min())
    boxes = [face.box for face in candidate.source_faces]
    own_places = identity.embed_boxes(published, boxes)
    for embedding, place, box in zip(source, own_places, boxes, strict=True):
        seen = any(overlap(face.box, box) > 0 for face in faces)
        distance = float(np.linalg.norm(embedding - place))
        nearest = min(nearest, distance if seen else distance / _UNSEEN_FACE)
    return nearest, limit


def _text_checks(
    candidate: Candidate, lines: Sequence[TextLine], mask: Mask, settings: Verify
) -> list[Check]:
    leaked = text_leaks(candidate.source_texts, [line.text for line in lines], settings.leak_ratio)
    missed = sum(covered(line.box, mask) < _INSIDE for line in lines)
    return [
        _at_most("texts_readable", float(sum(leaked)), 0.0),
        _at_most("texts_missed", float(missed), 0.0),
    ]


def _window(box: Box, mask: Mask) -> tuple[slice, slice]:
    height, width = mask.shape
    top, left = max(int(box.y), 0), max(int(box.x), 0)
    return (
        slice(top, min(int(np.ceil(box.bottom)), height)),
        slice(left, min(int(np.ceil(box.right)), width)),
    )


def _at_least(name: str, value: float, threshold: float) -> Check:
    return Check(name, value, threshold, bool(value >= threshold))


def _at_most(name: str, value: float, threshold: float) -> Check:
    return Check(name, value, threshold, bool(value <= threshold))
