"""Looking at an image with the detectors: what is sensitive, and what else is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unsafe2safe.core.records import Box, Category, Finding
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.vision.faces import Face
from unsafe2safe.vision.objects import DetectedObject
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.regions import head_of, overlap
from unsafe2safe.vision.text import TextLine

VEHICLES = frozenset({"car", "bus", "truck", "motorcycle", "train", "boat"})
_PLATE = re.compile(r"(?=.*\d)(?=.*[A-Z])[A-Z0-9]{1,4}([ -·]?[A-Z0-9]{1,4}){1,2}")
_INSIDE = 0.5  # share of a box that must lie in another to count as part of it


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the detectors saw in one image of ``width`` x ``height`` pixels."""

    width: int
    height: int
    findings: tuple[Finding, ...]
    objects: tuple[DetectedObject, ...]  # everything but persons
    persons: int


def inspect(images: Sequence[DecodedImage], perception: Perception) -> list[Inspection]:
    """Inspect a batch; faces and objects are searched together, text image by image."""
    pixels = [image.pixels for image in images]
    faces = perception.faces.detect(pixels)
    objects = perception.objects.detect(pixels)
    inspections = []
    for image, seen_faces, seen_objects in zip(images, faces, objects, strict=True):
        lines = perception.text.read(image.pixels)
        findings = find(seen_faces, seen_objects, lines, image.has_location)
        persons = sum(finding.category == Category.PERSON for finding in findings)
        height, width = image.pixels.shape[:2]
        others = tuple(item for item in seen_objects if item.label != "person")
        count = max(persons, len(seen_faces))
        inspections.append(Inspection(width, height, findings, others, count))
    return inspections


def find(
    faces: Sequence[Face],
    objects: Sequence[DetectedObject],
    lines: Sequence[TextLine],
    has_location: bool,
) -> tuple[Finding, ...]:
    """Findings of one image, from what its detectors returned.

    A person without a visible face still has a head that can identify; it becomes a finding of
    its own, so that redaction covers it.
    """
    findings = [Finding(Category.FACE, face.score, "centerface", face.box) for face in faces]
    for item in objects:
        if item.label != "person":
            continue
        findings.append(Finding(Category.PERSON, item.score, "nanodet", item.box))
        if not any(_part_of(face.box, item.box) for face in faces):
            head = head_of(item.box)
            findings.append(Finding(Category.HEAD, item.score, "nanodet", head))
    vehicles = [item.box for item in objects if item.label in VEHICLES]
    for line in lines:
        on_vehicle = any(_part_of(line.box, vehicle) for vehicle in vehicles)
        is_plate = on_vehicle or _PLATE.fullmatch(line.text.strip()) is not None
        category = Category.PLATE if is_plate else Category.TEXT
        findings.append(Finding(category, line.score, "rapidocr", line.box, line.text))
    if has_location:
        findings.append(Finding(Category.LOCATION, 1.0, "metadata"))
    return tuple(findings)


def _part_of(part: Box, whole: Box) -> bool:
    return overlap(part, whole) >= _INSIDE * part.area
