"""Reads the private attributes of synthetic scenes back from pixels, where it is told to look.

A small network trained on clean renders (``task=attribute_reader``). It is given the public part
of a scene's record, so it need not find persons or boards, only read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic.attributes import (
    CLOTHING,
    HAIR,
    HEADWEAR,
    LETTERS,
    PLATE_LETTERS,
    SIGN_LETTERS,
    SKIN,
    STYLES,
    UNITS,
    Person,
    Rect,
    Scene,
    Spot,
)
from unsafe2safe.data.synthetic.figures import letter_cells

Value = str | bool

PERSON_VALUES: Mapping[str, tuple[Value, ...]] = MappingProxyType(
    {
        "skin": tuple(SKIN),
        "hair_color": tuple(HAIR),
        "hair_style": STYLES,
        "clothing": tuple(CLOTHING),
        "glasses": (False, True),
        "headwear": tuple(HEADWEAR),
    }
)
GLYPHS = (*LETTERS, "")  # the last is a blank
PERSON_SIDE, GLYPH_SIDE = 32, 16  # pixels of a crop

WEIGHTS, CARD = "model.safetensors", "reader.json"


@dataclass(frozen=True)
class Reading:
    """What is read of a scene: log-probabilities over ``PERSON_VALUES`` for each person, and over
    ``GLYPHS`` for each cell of each board ("sign", "plate", "tag-0", ...)."""

    persons: tuple[Mapping[str, NDArray[np.float32]], ...]
    boards: Mapping[str, NDArray[np.float32]]

    def value(self, person: int, attribute: str) -> Value:
        """The likeliest value of an attribute of a person."""
        return PERSON_VALUES[attribute][int(self.persons[person][attribute].argmax())]

    def text(self, board: str) -> tuple[str, ...]:
        """The likeliest letter of each cell of a board, empty where blank."""
        return tuple(GLYPHS[int(index)] for index in self.boards[board].argmax(axis=1))


def board_cells(scene: Scene) -> Mapping[str, tuple[Rect, ...]]:
    """The letter cells of a scene's boards in units, by name."""
    cells: dict[str, tuple[Rect, ...]] = {}
    if scene.public.sign is not None:
        cells["sign"] = letter_cells(scene.public.sign, SIGN_LETTERS)
    if scene.public.plate is not None:
        cells["plate"] = letter_cells(scene.public.plate, PLATE_LETTERS)
    for index, (person, spot) in enumerate(
        zip(scene.private.persons, scene.public.spots, strict=True)
    ):
        if person.tag is not None:
            cells[f"tag-{index}"] = (spot.tag,)
    return cells


def board_texts(scene: Scene) -> Mapping[str, str]:
    """What stands on each of those boards."""
    texts = {name: getattr(scene.private, name) for name in ("sign", "plate")}
    texts |= {f"tag-{i}": person.tag for i, person in enumerate(scene.private.persons)}
    return {name: text for name, text in texts.items() if text is not None}


def person_window(spot: Spot) -> Rect:
    """The square around head and shoulders that a person is read from; may leave the frame."""
    half = 2.05 * spot.radius
    return Rect(spot.x - half, spot.y - half, spot.x + half, spot.y + half)


def glyph_window(cell: Rect) -> Rect:
    """The square around a letter's cell."""
    x, y = (cell.left + cell.right) / 2, (cell.top + cell.bottom) / 2
    half = (cell.bottom - cell.top) / 2
    return Rect(x - half, y - half, x + half, y + half)


def person_targets(person: Person) -> list[int]:
    """Indices into ``PERSON_VALUES``, -1 where the attribute does not show."""
    targets = [values.index(getattr(person, name)) for name, values in PERSON_VALUES.items()]
    if not person.style_shows:
        targets[list(PERSON_VALUES).index("hair_style")] = -1
    return targets


def crops(images: Tensor, windows: Sequence[tuple[int, Rect]], side: int) -> Tensor:
    """(K, 3, side, side) bilinear crops of (N, 3, R, R) images; windows are (image, units)."""
    if not windows:
        return images.new_zeros(0, images.shape[1], side, side)
    index = torch.tensor([number for number, _ in windows])
    rects = torch.tensor([tuple(rect) for _, rect in windows], dtype=images.dtype)
    left, top, right, bottom = (rects / UNITS * 2 - 1).unbind(1)
    affine = torch.zeros(len(windows), 2, 3, dtype=images.dtype)
    affine[:, 0, 0], affine[:, 0, 2] = (right - left) / 2, (right + left) / 2
    affine[:, 1, 1], affine[:, 1, 2] = (bottom - top) / 2, (bottom + top) / 2
    shape = (len(windows), images.shape[1], side, side)
    grid = functional.affine_grid(affine.to(images.device), list(shape), align_corners=False)
    return functional.grid_sample(images[index], grid, padding_mode="border", align_corners=False)


def _trunk(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        layers += [nn.MaxPool2d(2)]
        before = width
    return nn.Sequential(*layers, nn.Flatten())


class AttributeReader(nn.Module):
    """Two small convolutional networks, one for persons and one for letters."""

    def __init__(self) -> None:
        super().__init__()
        self.person_trunk = _trunk((16, 32, 64))
        self.person_heads = nn.ModuleDict(
            {name: nn.Linear(64 * 16, len(values)) for name, values in PERSON_VALUES.items()}
        )
        self.glyph_trunk = _trunk((16, 32))
        self.glyph_head = nn.Sequential(
            nn.Linear(32 * 16, 96), nn.SiLU(), nn.Linear(96, len(GLYPHS))
        )

    def persons(self, windows: Tensor) -> dict[str, Tensor]:
        """(K, 3, 32, 32) in [-1, 1] to (K, values) logits by attribute."""
        features = self.person_trunk(windows)
        return {name: head(features) for name, head in self.person_heads.items()}

    def glyphs(self, windows: Tensor) -> Tensor:
        """(K, 3, 16, 16) in [-1, 1] to (K, 21) logits."""
        logits: Tensor = self.glyph_head(self.glyph_trunk(windows))
        return logits

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8], scenes: Sequence[Scene]) -> list[Reading]:
        """Read pictures (N, R, R, 3) uint8 at the places of ``scenes``, one of each picture.

        Of a scene only its layout and who wears a tag is used, never what it shows.
        """
        pictures = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        pictures = pictures.float() / 127.5 - 1
        spots = [
            (number, person_window(spot))
            for number, scene in enumerate(scenes)
            for spot in scene.public.spots
        ]
        cells = [
            (number, name, cell)
            for number, scene in enumerate(scenes)
            for name, row in board_cells(scene).items()
            for cell in row
        ]
        found = self.persons(crops(pictures, spots, PERSON_SIDE))
        logs = {name: value.log_softmax(1).numpy() for name, value in found.items()}
        windows = [(number, glyph_window(cell)) for number, _, cell in cells]
        glyphs = self.glyphs(crops(pictures, windows, GLYPH_SIDE)).log_softmax(1).numpy()
        persons: list[list[Mapping[str, NDArray[np.float32]]]] = [[] for _ in scenes]
        for row, (number, _) in enumerate(spots):
            persons[number].append({name: log[row] for name, log in logs.items()})
        boards: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in scenes]
        for row, (number, name, _) in enumerate(cells):
            boards[number].setdefault(name, []).append(glyphs[row])
        return [
            Reading(tuple(people), {name: np.stack(rows) for name, rows in texts.items()})
            for people, texts in zip(persons, boards, strict=True)
        ]


def packaged_reader() -> Path:
    """Where the reader shipped in the package lies."""
    return Path(str(resources.files("unsafe2safe.assets") / "attribute_reader"))


def load_reader(folder: Path) -> AttributeReader:
    """The reader in ``folder``, in fp32 and eval mode.

    Raises:
        UsageError: the folder holds none, or one of other attributes.
    """
    from safetensors.torch import load_file

    try:
        told = json.loads((folder / CARD).read_text("utf-8"))
        if told["values"] != values_told():
            raise UsageError(f"the reader in {folder} reads other attributes than these")
        reader = AttributeReader()
        reader.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder} holds no attribute reader: {type(error).__name__}") from None
    return reader.float().eval().requires_grad_(False)


@cache
def the_reader() -> AttributeReader:
    """The packaged reader, loaded once."""
    return load_reader(packaged_reader())


def values_told() -> dict[str, list[Value]]:
    """What a reader's card says of its heads, in order."""
    return {name: list(values) for name, values in PERSON_VALUES.items()} | {"glyph": [*GLYPHS]}
