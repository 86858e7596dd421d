"""``stage1=oracle``: exact triplets of synthetic scenes, from their records instead of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import (
    Box,
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
from unsafe2safe.data.synthetic.attributes import UNITS, Rect, Scene
from unsafe2safe.data.synthetic.drawing import render, slots
from unsafe2safe.data.synthetic.source import index_of, known_edit, world_named
from unsafe2safe.data.synthetic.worlds import World, draw_scene
from unsafe2safe.stage1.base import Described, Stage1
from unsafe2safe.stage1.detectors import regions_of
from unsafe2safe.vision.perception import Perception

_CATEGORIES = {
    "sign": Category.TEXT,
    "timepiece": Category.TEXT,
    "plate": Category.PLATE,
}


@component
class Oracle(Stage1):
    """Knows what a scene of ``dataset=synthetic`` holds; its instruction redraws all of it."""

    world: str | None = Field(description="World of the scenes, as `dataset.world` says.")
    scene_seed: int | None = Field(description="Seed of the scenes, as `dataset.seed` says.")

    def describe(
        self,
        images: Sequence[tuple[ImageRecord, DecodedImage]],
        perception: Perception,  # noqa: ARG002 - nothing has to be found
        seed: int,
    ) -> list[Described]:
        if self.world is None or self.scene_seed is None:
            raise UsageError("stage1=oracle knows the scenes of dataset=synthetic only")
        world = world_named(self.world)
        described = []
        for record, image in images:
            scene = self._scene(record.image_id, image, world)
            side = len(image.pixels)
            described.append(self._describe(record.image_id, scene, side, world, seed))
        return described

    def _scene(self, image_id: str, image: DecodedImage, world: World) -> Scene:
        """The record behind a picture.

        Raises:
            UsageError: the picture shows anything else, so the triplet would tell lies of it.
        """
        scene = draw_scene(world, self.scene_seed or 0, index_of(image_id))
        if not np.array_equal(render(scene, len(image.pixels)), image.pixels):
            raise UsageError(
                f"{image_id} is not what world {world.name!r} with seed {self.scene_seed} draws; "
                "stage1.world and stage1.scene_seed must be those of the data set"
            )
        return scene

    def _describe(
        self, image_id: str, scene: Scene, side: int, world: World, seed: int
    ) -> Described:
        texts = known_edit(scene, world, seed, image_id).texts
        findings = tuple(findings_of(scene, side))
        triplet = Triplet(
            image_id=image_id,
            privacy_flag=PrivacyFlag.UNSAFE,
            state=TripletState.COMPLETE,
            public_caption=texts.public_caption,
            edit_instruction=texts.edit_instruction,
            combined_caption=texts.combined_caption,
            reason=", ".join(sorted({finding.category for finding in findings})),
            provenance=Provenance(model=self.name, seed=seed),
        )
        private = PrivateRecord(image_id, texts.private_caption, findings)
        return Described(triplet, private, regions_of(image_id, findings))


def findings_of(scene: Scene, side: int) -> Iterator[Finding]:
    """What is private, each in the rectangle that holds it whatever is drawn there."""
    private = scene.private
    for name, rect in slots(scene).items():
        category = _CATEGORIES.get(name, Category.PERSON)
        text = getattr(private, name) if name in ("sign", "plate") else ""
        yield Finding(category, 1.0, "oracle", _pixels(rect, side), text or "")
    for person, spot in zip(private.persons, scene.public.spots, strict=True):
        if person.tag is not None:
            yield Finding(Category.TEXT, 1.0, "oracle", _pixels(spot.tag, side), person.tag)


def _pixels(rect: Rect, side: int) -> Box:
    scale = side / UNITS
    return Box(
        rect.left * scale,
        rect.top * scale,
        (rect.right - rect.left) * scale,
        (rect.bottom - rect.top) * scale,
    )
