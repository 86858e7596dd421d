"""Which images of a unit are decoded, edited and verified together.

Decided by the unit's images alone, before any of them is decoded, so that an image has the same
company in every run: order, shards and interruptions do not change a byte of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.decode import stated_size
from unsafe2safe.data.source import ImageSource

Size = tuple[int, int]

# Of all pictures of a batch together; a greater picture goes alone. 200 MB decoded.
MOST_PIXELS = 64 * 1024 * 1024
_RATIO_CLASSES = 2  # per doubling of width to height
_AREA_STEP = 4.0  # from one class of areas to the next
_Bucket = tuple[int, int]


def batches_of(source: ImageSource, records: Sequence[ImageRecord], size: int) -> list[list[int]]:
    """Indices of ``records``, at most ``size`` to a batch, alike in shape and area.

    A picture whose size nobody states goes alone.
    """
    sizes = [size_of(source, record) for record in records]
    buckets: dict[_Bucket, list[int]] = defaultdict(list)
    alone: list[list[int]] = []
    for index, dimensions in enumerate(sizes):
        if dimensions is None:
            alone.append([index])
        else:
            buckets[_bucket(dimensions)].append(index)
    batches = list(alone)
    for bucket in sorted(buckets):
        batches.extend(_cut(buckets[bucket], sizes, size))
    return batches


def size_of(source: ImageSource, record: ImageRecord) -> Size | None:
    """Width and height as annotated, else as the file's header states; None: nobody says."""
    if record.width and record.height:
        return record.width, record.height
    try:
        return stated_size(source.read(record), record.image_id)
    except Exception:  # it is told when the image is decoded
        return None


def _bucket(size: Size) -> _Bucket:
    width, height = size
    ratio = round(_RATIO_CLASSES * math.log2(width / height))
    return ratio, round(math.log(width * height, _AREA_STEP))


def _cut(indices: Sequence[int], sizes: Sequence[Size | None], most: int) -> Iterator[list[int]]:
    batch: list[int] = []
    pixels = 0
    for index in indices:
        width, height = sizes[index] or (0, 0)
        if batch and (len(batch) == most or pixels + width * height > MOST_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(index)
        pixels += width * height
    if batch:
        yield batch
