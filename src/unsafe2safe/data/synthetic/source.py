"""``dataset=synthetic``: scenes as a data set, drawn when they are read; no files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image
from pydantic import Field

from unsafe2safe.core.config.components import component, nearest
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.synthetic.attributes import UNITS, Scene
from unsafe2safe.data.synthetic.canvas import check_side
from unsafe2safe.data.synthetic.captions import SceneTexts, scene_texts
from unsafe2safe.data.synthetic.drawing import render
from unsafe2safe.data.synthetic.redrawing import Redrawn, draw_private, redraw
from unsafe2safe.data.synthetic.worlds import WORLDS, World, draw_scene, object_of
from unsafe2safe.data.truth import PrivacyTruth

_ID = re.compile(r"([0-9]{8})\.png")
_MOST = 10**8  # what an image id has digits for
_NO_FILE = Path("scene")  # one for all: a path each is half the time of opening a million


def world_named(name: str) -> World:
    """The world of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in WORLDS:
        raise UsageError(f"there is no synthetic world {name!r}{nearest(name, WORLDS)}")
    return WORLDS[name]


def index_of(image_id: str) -> int:
    """The number of the scene that an image id of a synthetic data set names.

    Raises:
        UsageError: it names none.
    """
    match = _ID.fullmatch(image_id)
    if match is None:
        raise UsageError(f"{image_id!r} is no image of a synthetic data set, such as 00000012.png")
    return int(match[1])


def counterpart(scene: Scene, world: World, seed: int, image_id: str) -> Redrawn:
    """The scene with every private value redrawn, as ``stage1=oracle`` describes it.

    The same for the same arguments, so that triplets, training targets and metrics agree.
    """
    rng = generator(seed, image_id, stream="counterpart")
    return redraw(scene, draw_private(scene, world, rng, share=1.0))


@dataclass(frozen=True)
class KnownEdit:
    """The counterpart of a scene, and what an editor is told to get there."""

    redrawn: Redrawn
    texts: SceneTexts


def known_edit(scene: Scene, world: World, seed: int, image_id: str) -> KnownEdit:
    """The edit of ``image_id`` that the run with ``seed`` asks for."""
    redrawn = counterpart(scene, world, seed, image_id)
    return KnownEdit(redrawn, scene_texts(redrawn, world, seed, image_id))


@component
class SyntheticSource(ImageSource):
    """Scenes 0 to ``size`` - 1 of a synthetic world; ``root`` and ``orientation`` play no part."""

    size: int = Field(default=1000, ge=1, le=_MOST, description="Number of scenes.")
    side: int = Field(
        default=UNITS, description="Width and height in pixels, a multiple of 64 up to 1024."
    )
    world: str = Field(
        default="base",
        description=(
            "`base`; `phrasings`: other words and layouts; `values`: two more values each of hair "
            "colour and clothing."
        ),
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the scenes; another seed shares none with it."
    )

    def found(self) -> Iterator[ImageRecord]:
        """A record per scene, with its object as label."""
        yield from self._first(self.size)

    def read(self, record: ImageRecord) -> bytes:
        """The scene as a PNG file."""
        file = io.BytesIO()
        image = Image.fromarray(render(self.scene(record.image_id), self.side))
        image.save(file, "PNG", compress_level=1)
        return file.getvalue()

    def scene(self, image_id: str) -> Scene:
        """All that there is to know of an image.

        Raises:
            UsageError: no record of this source has that id.
        """
        index = index_of(image_id)
        if index >= self.size:
            raise UsageError(f"{image_id!r} is not among the {self.size} scenes of the data set")
        return draw_scene(self._world, self.seed, index)

    def edit_of(self, image_id: str, seed: int) -> KnownEdit:
        """The edit of an image that a run with ``seed`` asks for.

        Raises:
            UsageError: no record of this source has that id.
        """
        return known_edit(self.scene(image_id), self._world, seed, image_id)

    def truth(self, image_id: str) -> PrivacyTruth:
        """Every scene holds persons, so each is unsafe.

        Raises:
            UsageError: no record of this source has that id.
        """
        private = self.scene(image_id).private
        there = {
            "person": True,
            "tag": any(person.tag is not None for person in private.persons),
            "sign": private.sign is not None,
            "plate": private.plate is not None,
            "timepiece": private.timepiece is not None,
        }
        return PrivacyTruth(True, tuple(name for name, found in there.items() if found))

    def _first(self, count: int) -> Iterator[ImageRecord]:
        check_side(self.side)
        for index in range(count):
            label = object_of(self._world, self.seed, index)
            yield ImageRecord(f"{index:08d}.png", _NO_FILE, self.side, self.side, label=label)

    @cached_property
    def _records(self) -> tuple[ImageRecord, ...]:
        # Sorted and each once as they come, so that a trial of a large world makes few.
        return tuple(self._first(min(self.size, self.limit or self.size)))

    @cached_property
    def _world(self) -> World:
        return world_named(self.world)
