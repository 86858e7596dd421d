"""One validation: every picture edited once over all processes, measured where it was edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unsafe2safe.core.config.schema_common import Vision
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import OutcomeState
from unsafe2safe.editors.base import EditRequest, Pixels
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.metrics.base import ItemScore, PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.training.ranks import Ranks, gathered
from unsafe2safe.training.validation.choice import ValidationChoice
from unsafe2safe.training.validation.results import Point
from unsafe2safe.training.validation.samples import ValidationSample, ValidationSamples
from unsafe2safe.vision.perception import Perception

# Says whether an edit could be published, as anonymize.py would.
Judge = Callable[[EditRequest, Pixels, TrainableEditor], OutcomeState]


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture for the tracker: ``edited`` is None unless it is publishable, ``original`` unless
    private things are logged."""

    index: int
    public_caption: str
    outcome_state: OutcomeState
    edited: Pixels | None
    original: Pixels | None


@dataclass(frozen=True)
class _Scored:
    """What a process found on one picture: by point, then by metric."""

    index: int
    scores: tuple[Mapping[str, ItemScore], ...]


@dataclass(frozen=True)
class Showing:
    """Which pictures a tracker is shown: of the first ``most``, what ``judge`` lets pass."""

    most: int
    judge: Judge
    originals: bool = False


class Validator:
    """Edits and measures a fixed set of pictures.

    Batches of ``batch_size`` are cut from the whole set and dealt to the processes in turn, so that
    a batch holds the same pictures however many processes there are. Every process edits as many
    batches as the first one, so that a model whose weights are spread over them computes in step.
    What comes together are scores, and the few pictures that are shown.
    """

    def __init__(
        self,
        samples: ValidationSamples,
        choice: ValidationChoice,
        batch_size: int,
        vision: Vision,
        threads: int,
        showing: Showing | None,
        ranks: Ranks,
    ) -> None:
        self.choice = choice
        self._samples, self._batch_size = samples, batch_size
        self._vision, self._threads = vision, threads
        self._showing, self._ranks = showing, ranks
        self._loaded: dict[int, tuple[ValidationSample, ImageFeatures]] = {}

    def check(self) -> None:
        """Look at all originals, before the first step.

        Raises:
            UsageError: what stands for privacy or fidelity has no value on any of them.
        """
        measured: set[str] = set()
        for batch in self._batches()[self._ranks.rank :: self._ranks.world_size]:
            for index in batch:
                sample, original = self._load(index)
                pair = PairSample(str(index), original, None, sample.mask, truth=sample.truth)
                metrics = self.choice.metrics.items()
                measured.update(name for name, metric in metrics if metric.expected(pair))
        self.choice.check_measured(
            {name for part in gathered(measured, self._ranks) for name in part}
        )

    def measure(self, editor: TrainableEditor) -> tuple[tuple[Point, ...], list[Shown]]:
        """The points of ``editor`` under each guidance, and what may be shown of the first.

        All processes call this together, and get the same.

        Raises:
            UsageError: edits are not finite, or the figures say nothing on these pictures.
        """
        scored: dict[int, list[Mapping[str, ItemScore]]] = {}
        shown: list[Shown] = []
        for number, guidance in enumerate(self.choice.guidance):
            chosen = editor.with_settings(batch_size=self._batch_size, **guidance)
            for batch in self._edited(chosen):
                pairs = [self._pair(index, edited) for index, edited in batch]
                for (index, edited), scores in zip(batch, self._scores(pairs), strict=True):
                    scored.setdefault(index, []).append(scores)
                    if number == 0:
                        shown += self._shown(index, edited, chosen)
        mine = [_Scored(index, tuple(scores)) for index, scores in scored.items()]
        found = sorted(
            (item for part in gathered(mine, self._ranks) for item in part),
            key=lambda item: item.index,
        )
        if [item.index for item in found] != list(range(len(self._samples))):
            raise RuntimeError("a validation picture was edited twice, or by nobody")
        points = tuple(
            self.choice.point(
                guidance,
                {name: [item.scores[n][name] for item in found] for name in self.choice.metrics},
            )
            for n, guidance in enumerate(self.choice.guidance)
        )
        pictures = [picture for part in gathered(shown, self._ranks) for picture in part]
        return points, sorted(pictures, key=lambda picture: picture.index)

    def _edited(self, editor: TrainableEditor) -> Iterator[list[tuple[int, Pixels]]]:
        """The batches of this process, as (index, edited)."""
        batches, world = self._batches(), self._ranks.world_size
        for turn in range(0, len(batches), world):
            mine = turn + self._ranks.rank
            batch = batches[mine % len(batches)]
            try:
                edits = editor.edit([self._load(index)[0].request for index in batch])
            except ValueError as error:
                raise UsageError(
                    f"validation: {error}; try a lower trainer.learning_rate"
                ) from None
            if mine < len(batches):  # else only to keep in step
                yield list(zip(batch, edits, strict=True))

    def _batches(self) -> list[range]:
        size, count = self._batch_size, len(self._samples)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    @cached_property
    def _perception(self) -> Perception:
        return Perception(self._vision, self._threads)

    def _load(self, index: int) -> tuple[ValidationSample, ImageFeatures]:
        """A sample with what is seen in its original, which stays for the next validation."""
        if index not in self._loaded:
            sample = self._samples[index]
            features = ImageFeatures(sample.request.image, self._perception)
            self._loaded[index] = sample, features
        return self._loaded[index]

    def _pair(self, index: int, edited: Pixels) -> PairSample:
        sample, original = self._load(index)
        after = ImageFeatures(edited, self._perception)
        return PairSample(str(index), original, after, sample.mask, truth=sample.truth)

    def _scores(self, pairs: list[PairSample]) -> list[Mapping[str, ItemScore]]:
        measured = {name: metric.measure(pairs) for name, metric in self.choice.metrics.items()}
        return [
            {name: scores[place] for name, scores in measured.items()}
            for place in range(len(pairs))
        ]

    def _shown(self, index: int, edited: Pixels, editor: TrainableEditor) -> Iterator[Shown]:
        showing = self._showing
        if showing is None or index >= showing.most:
            return
        request = self._load(index)[0].request
        state = showing.judge(request, edited, editor)
        yield Shown(
            index=index,
            public_caption=request.public_caption,
            outcome_state=state,
            edited=np.ascontiguousarray(edited) if state.publishable else None,
            original=np.ascontiguousarray(request.image) if showing.originals else None,
        )
