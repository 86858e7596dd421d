"""What stands for an image's name in what is handed on, where the name is not to be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from unsafe2safe.core.files import KeyedHash
from unsafe2safe.core.records import Outcome, Pair

_PREFIX = "hmac:"
_DIGITS = 24


class Pseudonyms:
    """Keyed hashes of image ids: the same for the same id and key, telling nothing without it."""

    def __init__(self, keyed: KeyedHash) -> None:
        self._keyed = keyed

    def of(self, image_id: str) -> str:
        digest = self._keyed.digest(image_id.encode("utf-8", "surrogatepass"))
        return f"{_PREFIX}{digest[:_DIGITS]}"

    def known(self, image_ids: Iterable[str]) -> dict[str, str]:
        """Each of ``image_ids`` by its pseudonym."""
        return {self.of(image_id): image_id for image_id in image_ids}

    def hide(self, outcome: Outcome, *, published_under_own_name: bool) -> Outcome:
        """``outcome`` as it is written: only who is published under its own name keeps it."""
        if published_under_own_name:
            return outcome
        return replace(outcome, image_id=self.of(outcome.image_id))

    def hide_pair(self, pair: Pair) -> Pair:
        """``pair`` of an image that is published under another name."""
        name = self.of(pair.image_id)
        regions = tuple(replace(region, image_id=name) for region in pair.regions)
        return replace(pair, image_id=name, source=name, regions=regions)


def is_pseudonym(image_id: str) -> bool:
    return image_id.startswith(_PREFIX)


def true_names(private_root: Path, image_ids: Iterable[str]) -> dict[str, str]:
    """Image ids by their pseudonyms, for whoever has the key; empty for everyone else."""
    if not KeyedHash.exists(private_root):
        return {}
    return Pseudonyms(KeyedHash(private_root)).known(image_ids)


def restore(outcome: Outcome, names: Mapping[str, str]) -> Outcome:
    """``outcome`` under the true name of its image, where that is known."""
    return replace(outcome, image_id=names.get(outcome.image_id, outcome.image_id))


def restore_pair(pair: Pair, names: Mapping[str, str]) -> Pair:
    """``pair`` under the true name of its image, where that is known."""
    name = names.get(pair.image_id, pair.image_id)
    regions = tuple(replace(region, image_id=name) for region in pair.regions)
    return replace(pair, image_id=name, source=names.get(pair.source, pair.source), regions=regions)
