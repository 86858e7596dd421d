"""Stage 1 with a vision-language model that looks and a language model that instructs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unsafe2safe.backends.base import ChatModel
from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.core.records import (
    Category,
    Finding,
    ImageRecord,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.stage1.base import Described, Stage1
from unsafe2safe.stage1.caption import public_caption
from unsafe2safe.stage1.detectors import regions_of
from unsafe2safe.stage1.drafts import NEUTRAL_CAPTION, Draft, Instructor, guard_captions, joined
from unsafe2safe.stage1.guard import PrivateSide
from unsafe2safe.stage1.inspect import Inspection, inspect
from unsafe2safe.stage1.instruct import KEEP_INSTRUCTION, draw_plan, persons_told_of
from unsafe2safe.stage1.parsing import UNSPECIFIED
from unsafe2safe.stage1.passes import Look, Passes, View, Viewer
from unsafe2safe.stage1.prompting import Questions, hints_of
from unsafe2safe.stage1.schema import ReviewItem
from unsafe2safe.vision.perception import Perception


@component
class ModelStage1(Stage1):
    """Any VLM for review, flag and captions; any LLM for the instruction.

    The flag is safe only when the VLM says so, its review is empty, and (``detectors=true``) no
    detector and no metadata says otherwise: doubt means unsafe. Regions are the detectors', since
    masks need boxes.
    """

    vlm: dict[str, Any] = Field(description="Group `stage1/vlm`: the model that sees the images.")
    llm: dict[str, Any] = Field(description="Group `stage1/llm`: the model that instructs.")
    passes: Passes = Field(
        default="single",
        description="`single`: one generation per image. `paper`: captions and flag apart.",
    )
    criteria: Path | None = Field(
        default=None,
        description="YAML list of `name` and `description` in place of the nine categories.",
    )
    use_label: bool = Field(
        default=False, description="Show the VLM the data set's class label of the image."
    )
    detectors: bool = Field(
        default=True,
        description="Embedded detectors give the regions, and what they find is unsafe.",
    )
    hints: bool = Field(default=False, description="Tell the VLM what the detectors found.")
    caption_tokens: int = Field(default=1024, ge=1, description="Longest answer with captions.")
    flag_tokens: int = Field(default=128, ge=1, description="Longest answer of the flag pass.")
    instruction_tokens: int = Field(default=512, ge=1, description="Longest answer of the LLM.")
    repair_turns: int = Field(
        default=1, ge=0, description="Times an unreadable answer is asked for again."
    )
    replacement_plan: Literal["seeded", "none"] = Field(
        default="seeded",
        description="`seeded`: drawn from `attributes`. `none`: the LLM chooses, as in the paper.",
    )
    combined_caption: bool = Field(
        default=False, description="Write a combined caption, for editors that take one text."
    )
    attributes: dict[str, list[str]] = Field(
        description="Replacement attributes: phrases to draw from, uniformly, per person."
    )

    def __post_init__(self) -> None:
        """Mistakes in the groups and in the criteria are told before any image is read."""
        if self.hints and not self.detectors:
            raise ConfigError("stage1.hints=true needs stage1.detectors=true")
        empty = [name for name, values in self.attributes.items() if not values]
        if empty:
            raise ConfigError(f"stage1.attributes.{empty[0]} is empty")
        _ = self.questions, self.viewing_model, self.instructing_model

    @cached_property
    def questions(self) -> Questions:
        return Questions(self.criteria)

    def content(self) -> Mapping[str, str]:
        """The prompts with the categories or criteria in them."""
        return {"stage1.prompts": self.questions.hash}

    @cached_property
    def viewing_model(self) -> ChatModel:
        return build(self.vlm, "stage1.vlm", ChatModel)  # type: ignore[type-abstract]

    @cached_property
    def instructing_model(self) -> ChatModel:
        return build(self.llm, "stage1.llm", ChatModel)  # type: ignore[type-abstract]

    @property
    def images_together(self) -> int:
        return max(self.viewing_model.batch_size, self.instructing_model.batch_size)

    def describe(
        self,
        images: Sequence[tuple[ImageRecord, DecodedImage]],
        perception: Perception,
        seed: int,
    ) -> list[Described]:
        inspections = self._inspect([image for _, image in images], perception)
        views = [
            View(
                record.image_id,
                image.pixels,
                record.label if self.use_label else None,
                hints_of(seen) if self.hints else "",
            )
            for (record, image), seen in zip(images, inspections, strict=True)
        ]
        looks = self._viewer(seed).look(views)
        drafts = [
            _draft(view, look, seen)
            for view, look, seen in zip(views, looks, inspections, strict=True)
        ]
        self._write([*zip(drafts, looks, inspections, strict=True)], seed)
        return [
            self._described(draft, look, seen, seed)
            for draft, look, seen in zip(drafts, looks, inspections, strict=True)
        ]

    def _inspect(
        self, images: Sequence[DecodedImage], perception: Perception
    ) -> Sequence[Inspection]:
        if self.detectors:
            return inspect(images, perception)
        place = (Finding(Category.LOCATION, 1.0, "metadata"),)
        return [
            Inspection(
                image.pixels.shape[1],
                image.pixels.shape[0],
                place if image.has_location else (),
                (),
                0,
            )
            for image in images
        ]

    def _write(self, items: Sequence[tuple[Draft, Look, Inspection]], seed: int) -> None:
        """Captions of all that was read; instructions of those that are to be edited."""
        read = [draft for draft, look, _ in items if not look.problem]
        guard_captions(self.viewing_model, read, self.caption_tokens, seed, self.repair_turns)
        edited = []
        for draft, look, seen in items:
            if look.problem:
                continue
            if _reasons(look, seen) - {str(Category.LOCATION)}:
                persons = max(seen.persons, persons_told_of(draft.caption))
                draft.plan = draw_plan(self.attributes, persons, seed, draft.image_id)
                edited.append(draft)
                continue
            draft.instruction = KEEP_INSTRUCTION
            draft.combined = joined(draft.caption, draft.instruction)
        instructor = self._instructor(seed)
        instructor.instruct(edited)
        if self.combined_caption:
            instructor.combine(edited)

    def _viewer(self, seed: int) -> Viewer:
        return Viewer(
            self.viewing_model,
            self.questions,
            self.passes,
            self.caption_tokens,
            self.flag_tokens,
            self.repair_turns,
            seed,
        )

    def _instructor(self, seed: int) -> Instructor:
        return Instructor(
            self.instructing_model,
            self.instruction_tokens,
            self.caption_tokens,
            self.repair_turns,
            seed,
            self.replacement_plan == "none",
        )

    def _described(self, draft: Draft, look: Look, seen: Inspection, seed: int) -> Described:
        problem = look.problem or draft.problem
        reasons = _reasons(look, seen)
        triplet = Triplet(
            image_id=draft.image_id,
            privacy_flag=PrivacyFlag.UNSAFE if reasons or problem else PrivacyFlag.SAFE,
            state=TripletState.NEEDS_REVIEW if problem else TripletState.COMPLETE,
            public_caption="" if problem else draft.caption,
            edit_instruction="" if problem else draft.instruction,
            combined_caption=draft.combined if self.combined_caption and not problem else None,
            reason=problem or ", ".join(sorted(reasons)),
            provenance=self._provenance(seed),
        )
        private = PrivateRecord(draft.image_id, look.private_caption, tuple(draft.private.findings))
        regions = regions_of(draft.image_id, seen.findings)
        return Described(triplet, private, regions, dict(draft.leaks))

    def _provenance(self, seed: int) -> Provenance:
        models = (self.viewing_model, self.instructing_model)
        return Provenance(
            model=" + ".join(_public_name(model) for model in models),
            revision=" + ".join(filter(None, (model.revision for model in models))),
            prompt_hash=self.questions.hash,
            seed=seed,
        )


def _draft(view: View, look: Look, seen: Inspection) -> Draft:
    findings = (*seen.findings, *(_finding(item) for item in look.review))
    has_text = any(f.category in (Category.TEXT, Category.PLATE) for f in findings)
    return Draft(
        image_id=view.image_id,
        pixels=view.pixels,
        private=PrivateSide(findings, look.private_caption),
        caption=look.public_caption,
        fallback=public_caption(seen) if seen.objects or seen.persons else NEUTRAL_CAPTION,
        has_text=has_text,
    )


def _finding(item: ReviewItem) -> Finding:
    """A review item on the private side; its own category stays in the source."""
    category = Category.TEXT if item.category == Category.TEXT else Category.OTHER
    return Finding(category, 1.0, f"vlm:{item.category}", None, item.what)


def _reasons(look: Look, seen: Inspection) -> set[str]:
    """Public names of what makes the picture unsafe; empty for a safe one.

    Only the metadata gives ``location``: a picture for which that is all is published unedited.
    """
    found: Collection[str] = [str(finding.category) for finding in seen.findings]
    reviewed = {item.category for item in look.review}
    if look.flag == PrivacyFlag.UNSAFE and not reviewed:
        reviewed = {UNSPECIFIED}
    return {*found, *reviewed}


def _public_name(model: ChatModel) -> str:
    """The hub's or server's name of a model; a folder of this machine is not for the public."""
    is_path = Path(model.model).is_absolute() or Path(model.model).exists()
    return model.name if is_path else model.model
