"""Training and test images: which there are, how each is read, and that none is in both."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from unsafe2safe.core.errors import UnreadableImage
from unsafe2safe.core.randomness import derive_key
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.source import ImageSource
from unsafe2safe.vision.arrays import RgbImage

# The rows of pictures that nobody edited; no run's folder can be called so.
ORIGINAL, TEST = "/original", "/test"


@dataclass(frozen=True, eq=False)
class Example:
    """One image of a row, of the originals (``row`` is ORIGINAL), or of the test (TEST).

    ``public_caption`` is what Stage 1 wrote for others to read. ``record.label`` is what a
    classifier is to find; no prompt is made of it.
    """

    record: ImageRecord
    row: str
    read: Callable[[], RgbImage]
    public_caption: Callable[[], str] = field(default=lambda: "")

    @property
    def image_id(self) -> str:
        return self.record.image_id


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The images of one row of the table. ``absent`` counts those without one, by reason."""

    name: str
    title: str
    examples: tuple[Example, ...]
    absent: Mapping[str, int] = field(default_factory=dict)
    unavailable: str = ""


@dataclass(frozen=True, eq=False)
class TestSet:
    """Real images that no row is trained on; ``unreadable`` counts those that none could read."""

    __test__ = False  # no test case, whatever its name

    examples: tuple[Example, ...]
    unreadable: int
    told: str


@dataclass(frozen=True)
class Division:
    """Ids of the evaluated originals: those that rows are trained on, those that are tested on."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def divide(records: Sequence[ImageRecord], share: float, seed: int) -> Division:
    """Keep ``share`` of the images of each class for the test.

    The images of a class are ordered by a hash of the seed and their ids, and the first ones are
    tested on: no row, no run and no order of files plays a part. A class of two or more has at
    least one image on either side; a single one is trained on. Where the data set has no labels,
    the images of a folder are a class.
    """
    by_class: dict[str, list[str]] = defaultdict(list)
    for record in records:
        folder = str(PurePosixPath(record.image_id).parent)
        by_class[folder if record.label is None else record.label].append(record.image_id)
    test: set[str] = set()
    for ids in by_class.values():
        ordered = sorted(ids, key=lambda name: (derive_key(seed, name, 0, "utility test"), name))
        count = min(max(1, round(share * len(ids))), len(ids) - 1)
        test.update(ordered[:count])
    ids = sorted(record.image_id for record in records)
    return Division(
        tuple(name for name in ids if name not in test), tuple(name for name in ids if name in test)
    )


def digest(pixels: RgbImage) -> bytes:
    """Tells equal pictures under different names. Kept in memory only."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=b"utility").digest()


def _pixels(source: ImageSource, record: ImageRecord) -> RgbImage:
    return source.decode(record).pixels


def readable(source: ImageSource, record: ImageRecord) -> RgbImage | None:
    """An original's pixels; None where it cannot be decoded."""
    try:
        return source.decode(record).pixels
    except UnreadableImage:
        return None


def test_set(
    source: ImageSource,
    records: Sequence[ImageRecord],
    told: str,
    public_caption: Callable[[str], str],
) -> tuple[TestSet, frozenset[bytes]]:
    """The readable ones of ``records`` as a test set, and the digests of their pixels."""
    examples, digests = [], set()
    for record in records:
        pixels = readable(source, record)
        if pixels is None:
            continue
        digests.add(digest(pixels))
        examples.append(
            Example(
                record,
                TEST,
                partial(_pixels, source, record),
                partial(public_caption, record.image_id),
            )
        )
    unreadable = len(records) - len(examples)
    return TestSet(tuple(examples), unreadable, told), frozenset(digests)


test_set.__test__ = False  # type: ignore[attr-defined]
