"""From a configuration to a training whose frozen part lies in a cache."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import make_private, write_json
from unsafe2safe.core.ledger import fingerprint
from unsafe2safe.core.locks import opening
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.training.cache.building import Wanted, fill, lacking
from unsafe2safe.training.cache.content import NO_TEXT, Keys, KnownKeys, keys_of
from unsafe2safe.training.cache.data import CachedPairs
from unsafe2safe.training.cache.rows import Part, parts_of, returned_by
from unsafe2safe.training.cache.store import RowStore
from unsafe2safe.training.editor_task import FineTuningTask, TaskOptions
from unsafe2safe.training.pairs import PairDataset
from unsafe2safe.training.ranks import Ranks, gathered
from unsafe2safe.training.views import View

log = logging.getLogger("unsafe2safe")

_CARD = "cache.json"
_ROWS = "rows"
_KEYS = "keys.json"
_VERSION = "1"
_LEAST_VISITS = 2  # of each pair, for a cache to pay

PairTask = FineTuningTask[Any, Any]
TaskMaker = Callable[[TaskOptions], PairTask]


def is_wanted(config: Train, editor: TrainableEditor, pairs: int) -> bool:
    """What ``cache.mode`` says, or would be best: encoders that take time, and several visits."""
    if config.cache.mode != "auto":
        return config.cache.mode == "on"
    trainer = config.trainer
    per_step = trainer.batch_size * trainer.accumulate * trainer.devices * trainer.num_nodes
    return editor.slow_encoders and trainer.max_steps * per_step >= _LEAST_VISITS * pairs


@dataclass(frozen=True)
class PairCache:
    """The cache of an editor's base for one data set; ``kind`` is what its task prepares.

    ``private`` is the root that the folder is two levels below; None where a user chose another.
    """

    folder: Path
    settings: Mapping[str, str]
    kind: type[Any]
    private: Path | None = None

    @classmethod
    def of(
        cls, config: Train, editor: TrainableEditor, task: type[PairTask], data_set: str
    ) -> PairCache:
        """The cache that a training uses, whether it is there or not.

        Raises:
            UsageError: its folder would be public.
        """
        kind = returned_by(task.prepare)
        settings = {
            "version": _VERSION,
            "prepared": f"{kind.__name__} {sorted(parts_of(kind).items())}",
            **editor.encoding_settings(),
            **_dropped(config, editor),
        }
        name = f"{data_set}-{editor.name}-{fingerprint(settings)}"
        folder = config.cache.folder or config.paths.private / "caches" / name
        for key, public in (("output_dir", config.output_dir), ("paths.runs", config.paths.runs)):
            if public is not None and folder.resolve().is_relative_to(public.resolve()):
                raise UsageError(
                    f"cache.folder={folder} lies inside {key}={public}; what is cached shows the "
                    "originals and must not be published with a run"
                )
        private = None if config.cache.folder else config.paths.private
        return cls(folder, settings, kind, private)

    def check(self) -> None:
        """Refuse a folder that is another's, before any weight is loaded.

        Raises:
            UsageError: it holds the cache of another base, or files that are none of ours.
        """
        made = _card(self.folder)
        if made is None:
            if self.folder.is_dir() and any(p.name[0] != "." for p in self.folder.iterdir()):
                raise UsageError(f"cache.folder={self.folder} holds files, and no cache of ours")
            return
        for key in sorted({*made, *self.settings}):
            if made.get(key) != self.settings.get(key):
                raise UsageError(
                    f"cache.folder={self.folder} was made with {key}={made.get(key)!r}, and this "
                    f"is {self.settings.get(key)!r}; give another folder, or mode=purge"
                )

    def open(
        self,
        editor: TrainableEditor,
        data: PairDataset,
        make_task: TaskMaker,
        options: TaskOptions,
        unit_size: int,
        device: torch.device,
        ranks: Ranks,
    ) -> tuple[PairTask, CachedPairs, Mapping[str, str]]:
        """The task without encoders, the pairs as it prepares them, and by id why pairs were left
        out. What the cache lacks is encoded first, on ``device``; all of ``ranks`` take part.

        Raises:
            UsageError: no pair can be encoded, or one changes meanwhile.
        """
        if self.private is not None:
            make_private(self.private)
            make_private(self.folder.parent)
        make_private(self.folder)
        with opening(self.folder):
            self.check()
            if _card(self.folder) is None:
                write_json(self.folder / _CARD, {"settings": dict(self.settings)})
        store = RowStore(self.folder / _ROWS)
        store.drop_damaged(ranks.rank, ranks.world_size)
        keys = self._keys(editor, data, options.mask_weight, ranks)  # and all have looked by then
        store.refresh()
        complete = NO_TEXT in store and not any(lacking(store, k, self.kind) for k in keys.values())
        if complete:
            log.info("cache %s is complete: %d pairs", self.folder, len(data))
            task = make_task(options.with_no_text(store.read(NO_TEXT)))
        else:
            log.info("encoding what the cache %s lacks, once", self.folder)
            task = make_task(options)
            for encoder in task.encoders:
                encoder.to(device)
            wanted = [
                Wanted(
                    data.pairs[index].image_id,
                    found,
                    partial(_prepared, task, editor, data, index, view, options.mask_weight),
                )
                for (index, view), found in _by_place(data, keys).items()
            ]
            fill(store, wanted, self.kind, task.no_text, unit_size, ranks.rank / ranks.world_size)
            task.drop_encoders()
        failures = self._drop_not_finite(store, data, keys)
        return task, CachedPairs(data, _by_place(data, keys), self.kind, store), failures

    def _keys(
        self, editor: TrainableEditor, data: PairDataset, mask_weight: float, ranks: Ranks
    ) -> dict[tuple[str, View], Keys]:
        """The keys of each view of each pair, by id; each rank computes its share."""
        known = KnownKeys(self.folder / _KEYS)
        views = [(index, view) for index in range(len(data)) for view in data.views(index)]
        share = []
        for index, view in views[ranks.rank :: ranks.world_size]:
            signature = data.signature(index, view)
            if signature is not None:
                signature = fingerprint({"file": signature, "weight": mask_weight}, 32)
            share.append(
                (
                    (data.pairs[index].image_id, view),
                    signature,
                    known.of(signature, partial(_keys_now, editor, data, index, view, mask_weight)),
                )
            )
        found = [row for rows in gathered(share, ranks) for row in rows]
        if ranks.rank == 0:
            known.keep((signature, keys) for _, signature, keys in found)
        return {sample: keys for sample, _, keys in found}

    def _drop_not_finite(
        self, store: RowStore, data: PairDataset, keys: Mapping[tuple[str, View], Keys]
    ) -> dict[str, str]:
        failures = {}
        for (image_id, _), found in keys.items():
            for part in sorted(set(parts_of(self.kind).values())):
                if found[part] in store.not_finite:
                    what = "text" if part == "text" else f"{part}'s latents"
                    failures[image_id] = f"the {what} cannot be encoded: not finite"
        if len(failures) == len(data):
            image_id, reason = next(iter(failures.items()))
            raise UsageError(f"none of {len(data)} pairs can be encoded ({image_id}: {reason})")
        data.drop(failures)
        return failures


def purge(folder: Path) -> int:
    """Delete a cache; how many files it held.

    Raises:
        UsageError: there is something else, or it cannot be deleted.
    """
    if not folder.exists():
        return 0
    if _card(folder) is None:
        raise UsageError(f"cache.folder={folder} holds no cache of ours")
    with opening(folder):
        files = sum(1 for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UsageError(f"cannot delete {folder}: {error.strerror}") from None
    return files


def _card(folder: Path) -> Mapping[str, str] | None:
    """The settings that a cache was made with; None where there is none."""
    path = folder / _CARD
    try:
        made: Mapping[str, str] = json.loads(path.read_text("utf-8"))["settings"]
        return made
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path} is damaged; delete the folder {folder}") from None


def _dropped(config: Train, editor: TrainableEditor) -> dict[str, str]:
    """Which conditions a training drops, where that decides what is embedded for it."""
    if not editor.text_sees_source:
        return {}
    rates = {key: config.objective.get(key, 0) for key in ("text_dropout", "image_dropout")}
    return {f"objective.{key}": f"{'above' if rate else 'at'} 0" for key, rate in rates.items()}


def _keys_now(
    editor: TrainableEditor, data: PairDataset, index: int, view: View, mask_weight: float
) -> Keys:
    return keys_of(data.load(index, view), editor, mask_weight)


def _prepared(
    task: PairTask,
    editor: TrainableEditor,
    data: PairDataset,
    index: int,
    view: View,
    mask_weight: float,
    parts: Collection[Part],
) -> tuple[Keys, Mapping[str, Any]]:
    pair = data.load(index, view)
    return keys_of(pair, editor, mask_weight), task.prepare_parts(data.collate([pair]), parts)


def _by_place(
    data: PairDataset, keys: Mapping[tuple[str, View], Keys]
) -> dict[tuple[int, View], Keys]:
    """Keys by the places that pairs have in ``data``."""
    place = {pair.image_id: index for index, pair in enumerate(data.pairs)}
    return {(place[i], view): found for (i, view), found in keys.items() if i in place}
