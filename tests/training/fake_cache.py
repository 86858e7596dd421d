"""Pairs of a few pixels and a task that prepares them without any model, for tests of caches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import Pair
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.training.cache.data import CachedPairs
from unsafe2safe.training.cache.opening import PairCache
from unsafe2safe.training.cache.rows import MadeOf, Part
from unsafe2safe.training.draws import SampleKey
from unsafe2safe.training.editor_task import TaskOptions
from unsafe2safe.training.pairs import LoadedPair, PairDataset
from unsafe2safe.training.ranks import ALONE
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.views import View

SIDE = 2
Contents = Mapping[str, tuple[int, int, int]]  # source, target and text of a pair, by its id


@dataclass(frozen=True, eq=False)
class FakeText:
    tokens: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, eq=False)
class FakePrepared:
    target: Annotated[Tensor, MadeOf("target")]
    source: Annotated[Tensor, MadeOf("source")]
    text: Annotated[FakeText, MadeOf("text")]
    weight: Annotated[Tensor | None, MadeOf("mask")] = None


class FakePairs(PairDataset):
    """Pairs whose pixels and texts are made of three numbers."""

    def __init__(self, contents: Contents) -> None:
        pairs = [Pair(i, i, i, "", f"text {text}", ()) for i, (_, _, text) in contents.items()]
        super().__init__(pairs, Path(), None, SIDE)  # type: ignore[arg-type]
        self.contents = contents

    def load(self, index: int, view: View, visit: int = 0) -> LoadedPair:
        pair = self.pairs[index]
        source, target, _ = self.contents[pair.image_id]
        return LoadedPair(
            SampleKey(pair.image_id, visit),
            np.full((SIDE, SIDE, 3), source, np.uint8),
            np.full((SIDE, SIDE, 3), target, np.uint8),
            "",
            pair.edit_instruction,
            np.zeros((SIDE, SIDE), np.float32),
        )

    def signature(self, index: int, view: View) -> str | None:
        return None


class FakeTask:
    """Prepares what one can tell pictures and texts by; ``note`` is told what is encoded."""

    def __init__(
        self, note: Callable[[PairBatch, Collection[Part]], None] = lambda batch, parts: None
    ) -> None:
        self.encoders: list[Any] = []
        self.note = note
        self.dropped = False

    no_text = FakeText(torch.full((1, 3, 2), -1.0))

    def embed_nothing(self) -> FakeText:
        return self.no_text

    def prepare(self, batch: PairBatch) -> FakePrepared:
        return FakePrepared(**self.prepare_parts(batch, ("target", "source", "text", "mask")))

    def prepare_parts(self, batch: PairBatch, parts: Collection[Part]) -> dict[str, Any]:
        self.note(batch, parts)
        tokens = [float(text.split()[1]) for text in batch.edit_instructions]
        made = {
            "target": batch.target[:, :1],
            "source": batch.source[:, :, :1],
            "text": FakeText(torch.tensor(tokens)[:, None, None].expand(-1, 3, 2)),
            "weight": None,
        }
        return {name: value for name, value in made.items() if name in parts or name == "weight"}

    def drop_encoders(self) -> None:
        self.dropped = True


@cache
def tiny(**settings: Any) -> TinyEditor:
    values = dict(load("train").editor) | {"init_seed": 0} | settings  # type: ignore[attr-defined]
    return build(values, "editor", TinyEditor)


def open_cache(
    folder: Path, contents: Contents, task: FakeTask | None = None, unit_size: int = 2
) -> tuple[CachedPairs, Mapping[str, str], TaskOptions | None]:
    """The cached pairs, why some are left out, and the options the task was made with."""
    made: list[TaskOptions] = []

    def make(options: TaskOptions) -> Any:
        made.append(options)
        return task or FakeTask()

    of_fakes = PairCache(folder, {"base": "fake"}, FakePrepared)
    _, data, failures = of_fakes.open(
        tiny(),
        FakePairs(contents),
        make,
        TaskOptions(),
        unit_size,
        torch.device("cpu"),
        ALONE,
    )
    return data, failures, made[0]
