"""Stage 1 from the embedded detectors alone: no weights to download, runs on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.records import (
    Category,
    Finding,
    ImageRecord,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.stage1.base import Described, Stage1
from unsafe2safe.stage1.caption import private_caption, public_caption
from unsafe2safe.stage1.guard import leaks
from unsafe2safe.stage1.inspect import Inspection, inspect
from unsafe2safe.stage1.instruct import draw_plan, edit_instruction
from unsafe2safe.vision.perception import Perception

_NEUTRAL_CAPTION = "A photo."
_NEUTRAL_INSTRUCTION = "Change every person and replace all text with plain unreadable strokes."


@component
class Detectors(Stage1):
    """Findings of the embedded detectors; captions and instructions from templates."""

    attributes: dict[str, list[str]] = Field(
        description="Replacement attributes: phrases to draw from, uniformly, per person."
    )

    def describe(
        self,
        images: Sequence[tuple[ImageRecord, DecodedImage]],
        perception: Perception,
        seed: int,
    ) -> list[Described]:
        inspections = inspect([image for _, image in images], perception)
        return [
            self._described(record.image_id, seen, seed)
            for (record, _), seen in zip(images, inspections, strict=True)
        ]

    def _described(self, image_id: str, seen: Inspection, seed: int) -> Described:
        findings = seen.findings
        caption = public_caption(seen)
        if leaks(caption, findings):
            caption = _NEUTRAL_CAPTION
        has_text = any(f.category in (Category.TEXT, Category.PLATE) for f in findings)
        plan = draw_plan(self.attributes, seen.persons, seed, image_id)
        instruction = edit_instruction(caption, plan, has_text)
        if leaks(instruction, findings):
            instruction = _NEUTRAL_INSTRUCTION
        triplet = Triplet(
            image_id=image_id,
            privacy_flag=PrivacyFlag.UNSAFE if findings else PrivacyFlag.SAFE,
            state=TripletState.COMPLETE,
            public_caption=caption,
            edit_instruction=instruction,
            combined_caption=f"{caption} {instruction}",
            reason=", ".join(sorted({finding.category for finding in findings})),
            provenance=Provenance(model=self.name, seed=seed),
        )
        private = PrivateRecord(image_id, private_caption(seen), findings)
        return Described(triplet, private, regions_of(image_id, findings))


def regions_of(image_id: str, findings: Sequence[Finding]) -> tuple[Region, ...]:
    """The public side of findings: where, never what it says."""
    return tuple(
        Region(image_id, finding.box, finding.category, finding.score, finding.source)
        for finding in findings
        if finding.box is not None
    )
