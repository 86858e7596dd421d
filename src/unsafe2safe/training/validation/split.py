"""Which pairs are held out of training: told by what the original shows, the same in every run."""

from __future__ import annotations

import json
from collections.abc import Collection
from hashlib import blake2b
from pathlib import Path

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_json
from unsafe2safe.core.progress import Progress
from unsafe2safe.core.records import Pair
from unsafe2safe.training.pairs import PairDataset

_SALT = b"validation"


def place_of(content: str) -> float:
    """Where in [0, 1) the picture with that content key falls; uniform, and the same for ever."""
    digest = blake2b(content.encode(), digest_size=8, key=_SALT).digest()
    return int.from_bytes(digest, "big") / 2**64


def hold_out(data: PairDataset, share: float, kept_at: Path) -> list[Pair]:
    """Take ``share`` of the pairs out of ``data``, at least one; gives them in a fixed order.

    A pair falls to one side by its original's pixels alone: no picture is on both sides under two
    names, and none changes sides when others are added. The verdict is kept at ``kept_at`` and
    decides on every later start.

    Raises:
        UsageError: no pair would be left to train on.
    """
    held = _kept(kept_at)
    if held is None:
        held = _drawn(data, share)
        write_json(kept_at, held)
    _take(data, held, f"validation.share={share:g}")
    return [data.held_out[image_id] for image_id in held]


def hold_out_equals(data: PairDataset, other: PairDataset, kept_at: Path) -> list[Pair]:
    """Take out of ``data`` what shows the same pictures as ``other``, whose pairs are given.

    Raises:
        UsageError: no pair would be left to train on.
    """
    held = _kept(kept_at)
    if held is None:
        shown = {other.content_key(pair) for pair in other.pairs}
        held = [pair.image_id for pair in data.pairs if data.content_key(pair) in shown]
        write_json(kept_at, held)
    _take(data, held, "validation.pairs")
    return sorted(other.pairs, key=lambda pair: place_of(pair.image_id))


def _drawn(data: PairDataset, share: float) -> list[str]:
    """Ids of the pairs to hold out, by rising place."""
    places = {}
    with Progress("choosing validation pairs", len(data)) as progress:
        for pair in data.pairs:
            places[pair.image_id] = place_of(data.content_key(pair))
            progress.advance()
    least = min(places.values())
    held = [i for i, place in places.items() if place < share or place == least]
    return sorted(held, key=lambda image_id: (places[image_id], image_id))


def _take(data: PairDataset, held: Collection[str], key: str) -> None:
    if len(held) >= len(data):
        raise UsageError(f"{key}: all {len(data)} pairs are held out; none is left to train on")
    data.hold_out(held)


def _kept(path: Path) -> list[str] | None:
    try:
        return [str(image_id) for image_id in json.loads(path.read_text("utf-8"))]
    except FileNotFoundError:
        return None
