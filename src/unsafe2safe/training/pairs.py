"""Training pairs of a run folder of anonymize.py, decoded and brought to the editor's square."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from unsafe2safe.core.errors import ItemError, UsageError
from unsafe2safe.core.files import inside, write_json
from unsafe2safe.core.ledger import fingerprint
from unsafe2safe.core.progress import Progress
from unsafe2safe.core.pseudonyms import restore_pair
from unsafe2safe.core.records import Box, Pair
from unsafe2safe.core.tables import read_parts
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.base import Mask, Pixels
from unsafe2safe.editors.concealed_frames import hidden_in
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.instruct_pix2pix import square, to_model
from unsafe2safe.training.buckets import bucket_of
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.task import PairBatch, TrainingData
from unsafe2safe.training.views import View, Views
from unsafe2safe.vision.regions import grow_region, mask_of

_BUCKETS = "buckets.json"  # beside the verdict on what can be used
# Squares kept in memory, so that small sets are decoded once and not at every visit.
_KEPT_BYTES = 512 * 1024**2


@dataclass(frozen=True, eq=False)
class LoadedPair:
    """One visit to a pair; ``source`` and ``target`` are (H, W, 3) uint8 RGB of the training's
    size, ``mask`` is (H, W) float32, 1 where a region of the pair lies and 0 elsewhere."""

    key: SampleKey
    source: Pixels
    target: Pixels
    public_caption: str
    edit_instruction: str
    mask: Mask
    combined_caption: str | None = None


def read_pairs(run_folder: Path, true_names: Mapping[str, str] | None = None) -> list[Pair]:
    """The pairs of a run folder, sorted by ``image_id``; ``true_names`` are image ids by what
    stands for them in a folder whose pictures are published under other names.

    Raises:
        UsageError: there are none, or two of one image.
    """
    found = (
        restore_pair(pair, true_names or {}) for pair in read_parts(run_folder / "pairs", Pair)
    )
    pairs = sorted(found, key=lambda pair: pair.image_id)
    if not pairs:
        raise UsageError(
            f"{run_folder} holds no training pairs: it was made with write_pairs=false, or no "
            "edited image passed its checks (see its manifest.parquet and failures.jsonl)"
        )
    ids = [pair.image_id for pair in pairs]
    doubled = {first for first, second in pairwise(ids) if first == second}
    if doubled:
        raise UsageError(f"{run_folder}/pairs holds two pairs of {min(doubled)}")
    return pairs


def check_captions(pairs: Sequence[Pair], editor: TrainableEditor) -> None:
    """Refuse pairs without the text that ``editor`` is to be given.

    Raises:
        UsageError: says how many have none.
    """
    if editor.captions != "combined":
        return
    lacking = sum(not pair.combined_caption for pair in pairs)
    if lacking:
        raise UsageError(
            f"editor.captions=combined: {lacking} of {len(pairs)} pairs have no combined caption; "
            "make triplets with stage1.combined_caption=true"
        )


class PairDataset(TrainingData[LoadedPair, PairBatch]):
    """Pairs of one run folder."""

    noun: ClassVar[str] = "pairs"

    def __init__(
        self,
        pairs: Sequence[Pair],
        run_folder: Path,
        source: ImageSource,
        resolution: int,
        margin: float = 0.0,
        views: Views | None = None,
        sizes: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        """``margin`` grows the regions, as anonymize.py's key of that name does. ``sizes``: the
        buckets' heights and widths; None: squares of ``resolution``."""
        self.pairs = list(pairs)
        self._run_folder, self._source = run_folder, source
        self._resolution, self.margin = resolution, margin
        self.held_out: dict[str, Pair] = {}
        self.how_shown = views or Views()
        self._sizes = sizes or ((resolution, resolution),)
        self._bucket: dict[str, int] = {}  # of pairs that were decoded once, by id
        self._kept: dict[tuple[str, int], tuple[Pixels, Pixels, Mask]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index_and_visit: tuple[int, int]) -> LoadedPair:
        """The pair at an index, in the view of the visit; errors as :meth:`load`."""
        index, visit = index_and_visit
        return self.load(index, self.view(index, visit), visit)

    @property
    def buckets(self) -> list[int] | None:
        """The bucket of each pair, known once :meth:`drop_unusable` has seen all; None: all are of
        one."""
        if len(self._sizes) == 1:
            return None
        return [self._bucket[pair.image_id] for pair in self.pairs]

    @property
    def has_masks(self) -> bool:
        """Whether somebody has looked where something sensitive is."""
        return True

    def view(self, index: int, visit: int) -> View:
        """How the visit shows the pair."""
        return self.how_shown.of_visit(self.pairs[index], visit)

    def views(self, index: int) -> list[View]:
        """All that visits can show of the pair."""
        return self.how_shown.of_pair(self.pairs[index])

    def load(self, index: int, view: View, visit: int = 0) -> LoadedPair:
        """The pair at an index, in a view.

        Raises:
            ItemError: a side cannot be read, or the two differ in size.
        """
        pair = self.pairs[index]
        shown = self._kept.get((pair.image_id, view.crop)) or self._load(pair, view.crop)
        if view.flip:
            shown = shown[0][:, ::-1], shown[1][:, ::-1], shown[2][:, ::-1]
        source, target, mask = shown
        return LoadedPair(
            SampleKey(pair.image_id, visit),
            source,
            target,
            pair.public_caption,
            pair.edit_instruction,
            mask,
            pair.combined_caption,
        )

    def original(self, pair: Pair) -> Pixels:
        """The source of a pair, (H, W, 3) uint8 RGB in its own size.

        Raises:
            ItemError: it cannot be read.
        """
        return self._pictures(pair)[0]

    def content_key(self, pair: Pair) -> str:
        """A hash of what the source of a pair shows, whatever its file is called. It tells who
        holds the picture that it is in the set: for decisions, never for a file."""
        pixels = np.ascontiguousarray(self.original(pair))
        return blake2b(
            pixels.tobytes(), digest_size=16, key=repr(pixels.shape).encode()
        ).hexdigest()

    def hold_out(self, image_ids: Collection[str]) -> None:
        """Keep the pairs of that name out of training, in :attr:`held_out`."""
        chosen = set(image_ids)
        self.held_out = {pair.image_id: pair for pair in self.pairs if pair.image_id in chosen}
        self.pairs = [pair for pair in self.pairs if pair.image_id not in chosen]

    def _load(self, pair: Pair, crop: int) -> tuple[Pixels, Pixels, Mask]:
        source, target = self._pictures(pair)
        self._check_size(pair, "source and target", source.shape[:2], target.shape[:2])
        hidden = self._hidden(pair, *source.shape[:2])
        bucket = bucket_of(source.shape[0], source.shape[1], self._sizes)
        self._bucket[pair.image_id] = bucket
        height, width = self._sizes[bucket]
        kept = self.how_shown.window(pair, crop, hidden).slices
        # As an edit's mask comes to the square, or training would hide less than editing does.
        shown = (
            stretched(source[kept], height, width),
            stretched(target[kept], height, width),
            hidden_in(hidden[kept], height, width),
        )
        again = self.how_shown.countable  # else another crop is shown at the next visit
        if again and len(self._kept) * sum(part.nbytes for part in shown) < _KEPT_BYTES:
            self._kept[pair.image_id, crop] = shown
        return shown

    def _pictures(self, pair: Pair) -> tuple[Pixels, Pixels]:
        """Source and target, (H, W, 3) uint8 each."""
        source = self._source.decode(self._source.record(pair.source)).pixels
        path = inside(self._run_folder, pair.target)
        # Targets are written by us, upright: no orientation is left to apply.
        return source, decode_file(path, pair.image_id, orientation="raster").pixels

    def drawn_mask(self, pair: Pair) -> Mask | None:
        """(H, W) of 0 and 1 in the source's pixels, where the pair has a mask of its own; it is
        taken as it is, without ``margin``. None: the regions say what is sensitive.

        Raises:
            ItemError: it cannot be read.
        """
        if pair.mask is None:
            return None
        path = inside(self._run_folder, pair.mask)
        picture = decode_file(path, pair.image_id, orientation="raster").pixels
        mask: Mask = (picture.max(axis=2) > 0).astype(np.float32)
        return mask

    def _hidden(self, pair: Pair, height: int, width: int) -> Mask:
        """(H, W) the mask in the source's pixels."""
        drawn = self.drawn_mask(pair)
        if drawn is None:
            return mask_of(self._boxes(pair, height, width), height, width)
        self._check_size(pair, "source and mask", (height, width), drawn.shape)
        return drawn

    @staticmethod
    def _check_size(pair: Pair, what: str, *shapes: tuple[int, ...]) -> None:
        if len(set(shapes)) > 1:
            sizes = " and ".join(f"{width}x{height}" for height, width in shapes)
            raise ItemError(pair.image_id, f"{what} differ in size ({sizes})")

    def _boxes(self, pair: Pair, height: int, width: int) -> Iterator[Box]:
        """The pair's regions, grown, in the source's pixels."""
        for region in pair.regions:
            yield grow_region(region.category, region.box, self.margin, width, height)

    def _file_facts(self, pair: Pair) -> Any:
        """Size and time of change of the files; None where the pictures are no files."""
        ours = [inside(self._run_folder, name) for name in (pair.target, pair.mask) if name]
        paths = self._source.record(pair.source).path, *ours
        try:
            return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        except OSError:
            return None

    def signature(self, index: int, view: View) -> str | None:
        """What decides on :meth:`load`, with size and time of change in place of the files'
        content; None where the source is no file of its own."""
        pair = self.pairs[index]
        if (files := self._file_facts(pair)) is None:
            return None
        decided = (asdict(pair), files, view, self.margin, self._sizes, asdict(self.how_shown))
        settings = (self._source.orientation, self._source.max_pixels)
        return fingerprint({"pair": decided, "source": settings}, 32)

    def collate(self, items: Sequence[LoadedPair]) -> PairBatch:
        """Loaded pairs to one batch."""
        return PairBatch(
            keys=tuple(item.key for item in items),
            source=to_model([np.asarray(item.source) for item in items]),
            target=to_model([np.asarray(item.target) for item in items]),
            public_captions=tuple(item.public_caption for item in items),
            edit_instructions=tuple(item.edit_instruction for item in items),
            mask=torch.from_numpy(np.stack([item.mask for item in items])).unsqueeze(1),
            combined_captions=tuple(item.combined_caption for item in items),
        )

    def drop_unusable(self, kept_at: Path) -> Mapping[str, str]:
        """Decode every pair once and leave out those that fail; their reasons by id.

        The verdict is kept at ``kept_at`` and decides on every later start, so that a run keeps
        training on the pairs it began with.

        Raises:
            UsageError: no pair can be used.
        """
        failures = _kept_at(kept_at)
        buckets = _kept_at(kept_at.with_name(_BUCKETS))
        if failures is not None and buckets is not None:
            self._bucket.update(buckets)
        elif failures is None or self._sizes[1:]:
            failures = self._failures()
            if len(failures) == len(self):
                image_id, reason = next(iter(failures.items()))
                raise UsageError(f"none of {len(self)} pairs can be used ({image_id}: {reason})")
            if self._sizes[1:]:
                write_json(kept_at.with_name(_BUCKETS), self._bucket)
            write_json(kept_at, failures)
        self.drop(failures)
        return failures

    def drop(self, image_ids: Collection[str]) -> None:
        """Leave these pairs out."""
        self.pairs = [pair for pair in self.pairs if pair.image_id not in image_ids]

    def _failures(self) -> dict[str, str]:
        failures = {}
        with Progress("reading pairs", len(self)) as progress:
            for index, pair in enumerate(self.pairs):
                try:
                    _ = self[index, 0]
                except ItemError as error:
                    failures[pair.image_id] = error.reason
                except UsageError as error:  # no such source, or a target outside its run
                    failures[pair.image_id] = str(error)
                progress.advance()
        return failures


def _kept_at(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return content


def stretched(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W, 3) uint8 to (height, width, 3) uint8; as ``square``, for any size."""
    if height == width:
        return square(pixels, height)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)
