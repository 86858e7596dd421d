"""``task=attribute_reader``: the network that the truth-based metrics read edits with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from unsafe2safe.core.config.components import component
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.data.synthetic import Scene, draw_scene, render
from unsafe2safe.data.synthetic.attributes import Rect
from unsafe2safe.data.synthetic.source import world_named
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.instruct_pix2pix import to_model
from unsafe2safe.editors.tiny_model import SIDE
from unsafe2safe.training.draws import SampleKey, draw_normal, draw_uniform
from unsafe2safe.training.export import ExportError
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scenes import scene_seed
from unsafe2safe.training.task import Task, TrainingData
from unsafe2safe.vision.attribute_reader import (
    CARD,
    GLYPH_SIDE,
    GLYPHS,
    PERSON_SIDE,
    PERSON_VALUES,
    WEIGHTS,
    AttributeReader,
    Reading,
    board_cells,
    board_texts,
    crops,
    glyph_window,
    load_reader,
    person_targets,
    person_window,
    values_told,
)

_JITTER = 0.6  # units that a window is moved by, at most
_MEASURED_AT_ONCE = 256
Windows = list[tuple[int, Rect]]


@dataclass(frozen=True, eq=False)
class KnownScene:
    """A scene with its picture (R, R, 3) uint8 RGB."""

    key: SampleKey
    scene: Scene
    pixels: Pixels


@dataclass(frozen=True, eq=False)
class KnownBatch:
    """Scenes and their pictures (B, 3, R, R) float32 in [-1, 1]."""

    keys: tuple[SampleKey, ...]
    scenes: tuple[Scene, ...]
    images: Tensor


class KnownScenes(TrainingData[KnownScene, KnownBatch]):
    """``size`` scenes an epoch, others in each, of each of ``worlds`` in turn."""

    noun: ClassVar[str] = "scenes"

    def __init__(self, worlds: Sequence[str], seed: int, size: int) -> None:
        self._worlds, self._seed, self._size = [world_named(w) for w in worlds], seed, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index_and_visit: tuple[int, int]) -> KnownScene:
        """The scene of a visit, drawn and rendered."""
        index, visit = index_and_visit
        number = visit * self._size + index
        scene = draw_scene(self._worlds[number % len(self._worlds)], self._seed, number)
        return KnownScene(SampleKey(f"scene-{index}", visit), scene, render(scene, SIDE))

    def collate(self, items: Sequence[KnownScene]) -> KnownBatch:
        """Scenes to one batch."""
        return KnownBatch(
            tuple(item.key for item in items),
            tuple(item.scene for item in items),
            to_model([item.pixels for item in items]),
        )


@component
class AttributeReaderRecipe(Recipe):
    """Learns to read persons' attributes and letters from clean renders, a little disturbed."""

    worlds: tuple[str, ...] = Field(
        default=("values", "phrasings"), min_length=1, description="Worlds the scenes are of."
    )
    scenes: int = Field(default=20000, ge=1, description="Scenes of an epoch.")
    noise: float = Field(
        default=0.06, ge=0, description="Greatest deviation of the noise added, of a range of 2."
    )
    held_out: int = Field(
        default=2000, ge=1, description="Scenes, of none trained on, that accuracy is measured on."
    )

    exported_as: ClassVar[str] = "reader"
    unused: ClassVar[tuple[str, ...]] = ("dataset", "vision", "editor", "objective", "pairs")
    stands_for: ClassVar[Mapping[str, str] | None] = {
        "name": "synthetic",
        "task": "attribute_reader",
    }

    def choice(self, config: Train) -> str:  # noqa: ARG002
        return self.name

    def data(self, config: Train, inputs: Mapping[str, Path]) -> KnownScenes:  # noqa: ARG002
        return KnownScenes(self.worlds, scene_seed(config.seed, "training"), self.scenes)

    def task(self, config: Train, inputs: Mapping[str, Path]) -> Task[KnownBatch, Any, Any]:  # noqa: ARG002
        held_out = KnownScenes(self.worlds, scene_seed(config.seed, "held-out"), self.held_out)
        return AttributeReaderTask(config.seed, self.noise, held_out)


@dataclass(frozen=True, eq=False)
class ReaderDraws:
    """Noise (B, 3, R, R), its deviation (B,), and each scene's shift of windows (B, 2), units."""

    noise: Tensor
    deviation: Tensor
    shift: Tensor


class AttributeReaderTask:
    """Cross-entropy over every attribute that shows and every letter."""

    denoiser: None = None  # too small for it

    def __init__(self, seed: int, noise: float, held_out: KnownScenes) -> None:
        """Draw the weights from ``seed``."""
        self._seed, self._noise, self._held_out = seed, noise, held_out
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "", 0, "attribute_reader_init"))
            self._reader = AttributeReader()
        self.network: nn.Module = self._reader

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """All weights by name."""
        return dict(self.network.named_parameters())

    def prepare(self, batch: KnownBatch) -> KnownBatch:
        """The batch itself."""
        return batch

    def draw(self, keys: Sequence[SampleKey], prepared: KnownBatch) -> ReaderDraws:
        """How each picture is disturbed."""
        across, down = (draw_uniform(self._seed, keys, f"shift_{axis}") for axis in "xy")
        return ReaderDraws(
            noise=draw_normal(self._seed, keys, "noise", prepared.images.shape[1:]),
            deviation=draw_uniform(self._seed, keys, "deviation").float() * self._noise,
            shift=(torch.stack([across, down], 1).float() * 2 - 1) * _JITTER,
        )

    def loss(self, prepared: KnownBatch, draws: ReaderDraws) -> Tensor:
        """(B,) means over a scene's persons of the attributes' sum, and over its letters."""
        images = prepared.images + draws.deviation[:, None, None, None] * draws.noise
        device = next(self.network.parameters()).device
        images = images.to(device)
        persons: Windows = []
        glyphs: Windows = []
        person_truth: list[list[int]] = []
        glyph_truth: list[int] = []
        for number, scene in enumerate(prepared.scenes):
            dx, dy = draws.shift[number].tolist()
            for person, spot in zip(scene.private.persons, scene.public.spots, strict=True):
                persons.append((number, _moved(person_window(spot), dx, dy)))
                person_truth.append(person_targets(person))
            texts = board_texts(scene)
            for name, cells in board_cells(scene).items():
                for cell, letter in zip(cells, texts[name] or [""] * len(cells), strict=True):
                    glyphs.append((number, _moved(glyph_window(cell), dx, dy)))
                    glyph_truth.append(GLYPHS.index(letter))
        found = self._reader.persons(crops(images, persons, PERSON_SIDE))
        truth = torch.tensor(person_truth, device=device)
        each = torch.zeros(len(persons), device=device)
        for column, name in enumerate(PERSON_VALUES):
            each = each + functional.cross_entropy(
                found[name], truth[:, column], ignore_index=-1, reduction="none"
            )
        losses = _mean_of_each(each, persons, len(prepared.scenes))
        if glyphs:
            read = self._reader.glyphs(crops(images, glyphs, GLYPH_SIDE))
            told = torch.tensor(glyph_truth, device=device)
            error = functional.cross_entropy(read, told, reduction="none")
            losses = losses + _mean_of_each(error, glyphs, len(prepared.scenes))
        return losses

    def export(self, folder: Path) -> None:
        """Write ``folder`` for :func:`load_reader`, in fp16.

        Raises:
            ExportError: read back, the accuracy of a head is another by more than 0.01.
        """
        from safetensors.torch import save_file

        temporary = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        weights = {n: w.detach().cpu().half() for n, w in self.network.state_dict().items()}
        save_file(weights, temporary / WEIGHTS)
        card = json.dumps({"values": values_told()}, indent=2, sort_keys=True)
        (temporary / CARD).write_text(card + "\n", "utf-8")
        trained = self._accuracies(self._reader.eval())
        reloaded = self._accuracies(load_reader(temporary))
        if any(abs(trained[name] - reloaded[name]) > 0.01 for name in trained):
            raise ExportError("the attribute reader does not survive fp16")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)

    def validate(self, folder: Path) -> Mapping[str, float]:
        """Accuracy of each head on clean held-out renders."""
        return self._accuracies(load_reader(folder))

    def _accuracies(self, reader: AttributeReader) -> dict[str, float]:
        right: dict[str, list[bool]] = {}
        for begin in range(0, len(self._held_out), _MEASURED_AT_ONCE):
            stop = min(begin + _MEASURED_AT_ONCE, len(self._held_out))
            items = [self._held_out[index, 0] for index in range(begin, stop)]
            readings = reader.read(np.stack([i.pixels for i in items]), [i.scene for i in items])
            for item, reading in zip(items, readings, strict=True):
                for name, found in _right(item.scene, reading).items():
                    right.setdefault(name, []).extend(found)
        return {name: float(np.mean(found)) for name, found in right.items()}


def _right(scene: Scene, reading: Reading) -> dict[str, list[bool]]:
    """What of a scene is read as it is, by head."""
    right: dict[str, list[bool]] = {}
    for number, person in enumerate(scene.private.persons):
        for name in PERSON_VALUES:
            if name != "hair_style" or person.style_shows:
                same = reading.value(number, name) == getattr(person, name)
                right.setdefault(name, []).append(same)
    for board, text in board_texts(scene).items():
        read = reading.text(board)
        expected = tuple(text) or ("",) * len(read)
        letters = [a == b for a, b in zip(read, expected, strict=True)]
        right.setdefault(f"{board.partition('-')[0]}_letter", []).extend(letters)
    return right


def _moved(window: Rect, dx: float, dy: float) -> Rect:
    return Rect(window.left + dx, window.top + dy, window.right + dx, window.bottom + dy)


def _mean_of_each(values: Tensor, windows: Windows, count: int) -> Tensor:
    """(count,) means of ``values`` (K,) over the windows of each scene, 0 where it has none."""
    owner = torch.tensor([number for number, _ in windows], device=values.device)
    sums = torch.zeros(count, device=values.device).index_add(0, owner, values)
    return sums / torch.bincount(owner, minlength=count).clamp(min=1)
