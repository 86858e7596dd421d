"""Classification: the labels of the data set, learned on each row's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from typing_extensions import override

from unsafe2safe.core.config.components import component
from unsafe2safe.evaluation.utility.base import (
    Bench,
    Item,
    TooLittleError,
    UtilityTask,
    missing_weights,
    shown,
)
from unsafe2safe.evaluation.utility.examples import Example
from unsafe2safe.evaluation.utility.vit import ViTSettings, train_and_classify
from unsafe2safe.metrics.base import Direction
from unsafe2safe.vision.arrays import FloatArray, RgbImage

_AT_ONCE = 16
_QUARTER = 0.625  # of a side: four of them overlap by a quarter of the frame


@component
class Classification(UtilityTask):
    """Top-1 and macro accuracy of a probe on frozen features, or of a fine-tuned ViT."""

    title: ClassVar[str] = "Classification"
    directions: ClassVar[Mapping[str, Direction]] = {"top1": "up", "macro": "up"}

    mode: Literal["probe", "finetune"] = Field(
        default="probe",
        description="`probe`: logistic regression on frozen EfficientNet-Lite0 features. "
        "`finetune`: a ViT with the paper's settings.",
    )
    labels: Literal["dataset", "folder"] = Field(
        default="dataset",
        description="What is learned: the data set's labels, or the names of the folders that "
        "images lie in, for pictures of which no more is known.",
    )
    views: Literal["whole", "quarters"] = Field(
        default="whole",
        description="Probe: features of the whole frame, or the largest over four overlapping "
        "quarters of it, for objects that are small in the frame.",
    )
    regularization: PositiveFloat = Field(
        default=100.0, description="Probe: inverse strength C of the regression's L2 penalty."
    )
    draw_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Probe: share of the training images that each seed draws, the same images in "
        "every row; the regression itself has nothing random.",
    )
    model: str = Field(
        default="facebook/vit-mae-base", description="Fine-tuning: hub id or folder of a ViT."
    )
    revision: str = Field(default="", description="Fine-tuning: revision of the hub's model.")
    epochs: PositiveInt = Field(default=100, description="Fine-tuning: passes over the images.")
    batch_size: PositiveInt = Field(default=64, description="Fine-tuning: images of a batch.")
    accumulation: PositiveInt = Field(default=4, description="Fine-tuning: batches of a step.")
    learning_rate: PositiveFloat = Field(
        default=5e-4, description="Fine-tuning: highest learning rate, of the head."
    )
    layer_decay: float = Field(
        default=0.65,
        gt=0,
        le=1,
        description="Fine-tuning: each layer below has this share of the learning rate; 1: none.",
    )
    warmup_share: float = Field(
        default=0.05, ge=0, lt=1, description="Fine-tuning: share of the steps that warm up."
    )
    weight_decay: NonNegativeFloat = Field(default=0.05, description="Fine-tuning: of AdamW.")
    augment_operations: int = Field(
        default=2, ge=0, description="Fine-tuning: RandAugment's operations; 0: none."
    )
    augment_magnitude: int = Field(
        default=9, ge=0, le=30, description="Fine-tuning: RandAugment's magnitude of 30."
    )
    augment_probability: float = Field(
        default=0.5, ge=0, le=1, description="Fine-tuning: chance of each of its operations."
    )
    device: str = Field(default="cpu", description="Fine-tuning: cpu, cuda or cuda:1.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Fine-tuning: arithmetic of the forward pass."
    )

    @property
    @override
    def definition(self) -> str:
        how = (
            f"A logistic regression (C {self.regularization:g}) on unit-length features of "
            f"{'the whole frame' if self.views == 'whole' else 'four quarters, the largest'}, "
            f"each seed with {self.draw_share:.0%} of the row's images"
            if self.mode == "probe"
            else f"A ViT fine-tuned for {self.epochs} epochs, batch {self.batch_size} x "
            f"{self.accumulation}, learning rate {self.learning_rate:g}, RandAugment "
            f"({self.augment_operations}, {self.augment_magnitude}, {self.augment_probability:g})"
        )
        return f"{how}; top-1 accuracy, and the mean of the classes' accuracies."

    @property
    @override
    def model_name(self) -> str:
        return "EfficientNet-Lite0, frozen" if self.mode == "probe" else shown(self.model)

    @override
    def unavailable(self, bench: Bench) -> str:
        return "" if self.mode == "probe" else missing_weights(self.model, self.revision)

    @override
    def usable(self, example: Example, bench: Bench) -> bool:
        return self._label(example) is not None

    def _label(self, example: Example) -> str | None:
        if self.labels == "dataset":
            return example.record.label
        return PurePosixPath(example.image_id).parent.name or None

    @override
    def measure(
        self, train: Sequence[Example], test: Sequence[Example], seed: int, bench: Bench
    ) -> list[Item]:
        labels = [str(self._label(example)) for example in train]
        truth = [str(self._label(example)) for example in test]
        classes = sorted({*labels, *truth})
        if len(set(labels)) < 2:
            raise TooLittleError("its images have fewer than two classes")
        number = {label: index for index, label in enumerate(classes)}
        given = np.array([number[label] for label in labels])
        if self.mode == "probe":
            found = self._probe(train, given, test, seed, bench)
        else:
            found = self._finetune(train, given, test, len(classes), seed, bench)
        return [
            [number[label], int(guess)] for label, guess in zip(truth, found.tolist(), strict=True)
        ]

    def _probe(
        self,
        train: Sequence[Example],
        given: NDArray[np.int64],
        test: Sequence[Example],
        seed: int,
        bench: Bench,
    ) -> NDArray[np.int64]:
        from sklearn.linear_model import LogisticRegression

        share = int(self.draw_share * 2**63)
        drawn = np.array([bench.draw(seed, "drawn", e.image_id) < share for e in train])
        if len(set(given[drawn].tolist())) < 2:
            drawn[:] = True
        features = self._features([e for e, kept in zip(train, drawn, strict=True) if kept], bench)
        probe = LogisticRegression(C=self.regularization, max_iter=2000)
        probe.fit(features, given[drawn])
        found: NDArray[np.int64] = probe.predict(self._features(test, bench))
        return found

    def _features(self, examples: Sequence[Example], bench: Bench) -> FloatArray:
        """(N, 1280) features of unit length, each image's computed once."""
        kind = f"efficientnet_lite0 {self.views}"
        keys = [(kind, e.row, e.image_id) for e in examples]
        todo = [pair for pair in zip(keys, examples, strict=True) if pair[0] not in bench.memo]
        for start in range(0, len(todo), _AT_ONCE):
            some = todo[start : start + _AT_ONCE]
            for (key, _), found in zip(some, self._seen([e for _, e in some], bench), strict=True):
                bench.memo[key] = found / max(float(np.linalg.norm(found)), 1e-12)
        return np.stack([bench.memo[key] for key in keys])

    def _seen(self, examples: Sequence[Example], bench: Bench) -> FloatArray:
        images = [example.read() for example in examples]
        if self.views == "whole":
            return bench.perception.features.features(images)
        parts = [part for image in images for part in quarters(image)]
        found = bench.perception.features.features(parts)
        most: FloatArray = found.reshape(len(images), 4, -1).max(axis=1)
        return most

    def _finetune(
        self,
        train: Sequence[Example],
        given: NDArray[np.int64],
        test: Sequence[Example],
        classes: int,
        seed: int,
        bench: Bench,
    ) -> NDArray[np.int64]:
        return train_and_classify(
            self._vit_settings(),
            [example.read for example in train],
            given,
            [bench.draw(seed, "augment", example.image_id) for example in train],
            [example.read for example in test],
            classes,
            bench.draw(seed, "vit"),
        )

    def _vit_settings(self) -> ViTSettings:
        names = ViTSettings.__dataclass_fields__
        return ViTSettings(**{name: getattr(self, name) for name in names})

    @override
    def pack(self, items: Sequence[Item]) -> NDArray[np.int64]:
        return np.array(items, np.int64).reshape(-1, 2)

    @override
    def figures(self, packed: Any, chosen: Any) -> dict[str, float]:
        true, right = packed[chosen, 0], packed[chosen, 0] == packed[chosen, 1]
        counts = np.bincount(true)
        hits = np.bincount(true, weights=right)
        there = counts > 0
        return {"top1": float(right.mean()), "macro": float((hits[there] / counts[there]).mean())}

    @override
    def floors(self, packed: Any) -> dict[str, float]:
        """Always telling the test images' most frequent class."""
        counts = np.bincount(packed[:, 0])
        return {
            "top1": float(counts.max() / counts.sum()),
            "macro": float(1 / np.count_nonzero(counts)),
        }


def quarters(image: RgbImage) -> list[RgbImage]:
    """Four overlapping parts of ``image`` (H, W, 3), one for each corner."""
    height, width = image.shape[:2]
    high, wide = max(1, round(_QUARTER * height)), max(1, round(_QUARTER * width))
    return [
        image[top : top + high, left : left + wide]
        for top in (0, height - high)
        for left in (0, width - wide)
    ]
