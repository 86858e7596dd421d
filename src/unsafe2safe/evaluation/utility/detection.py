"""Detection: do the annotated objects survive, and can a detector be trained on what is left?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from typing_extensions import override

from unsafe2safe.core.config.components import component
from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Box
from unsafe2safe.evaluation.utility.base import (
    Bench,
    Item,
    TooLittleError,
    UtilityTask,
    shown,
    without_paths,
)
from unsafe2safe.evaluation.utility.boxes import Annotated, Annotations, read_annotations
from unsafe2safe.evaluation.utility.coco_map import Detected, average_precision, match, pack
from unsafe2safe.evaluation.utility.examples import TEST, Example
from unsafe2safe.evaluation.utility.loops import autocast, seeded, train
from unsafe2safe.metrics.base import Direction
from unsafe2safe.vision.arrays import RgbImage, resized
from unsafe2safe.vision.objects import COCO_CLASSES, ObjectDetector

if TYPE_CHECKING:
    import torch

_ALIASES = {"plant": "potted plant", "ball": "sports ball"}  # of scenes, for COCO's detector
Model = Literal[
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssdlite320_mobilenet_v3_large",
]


@component
class Detection(UtilityTask):
    """COCO's mAP against the boxes of the original annotations."""

    title: ClassVar[str] = "Detection"
    directions: ClassVar[Mapping[str, Direction]] = {"map": "up", "map50": "up"}
    most_draws: ClassVar[int] = 300

    mode: Literal["frozen", "finetune"] = Field(
        default="frozen",
        description="`frozen`: the embedded NanoDet looks for the original's objects in the row's "
        "own images. `finetune`: a detector is trained on them and tested on real images.",
    )
    annotations: Path | None = Field(
        default=None,
        description="Boxes in COCO's instances format; null: the data set's own (COCO, scenes).",
    )
    test_annotations: Path | None = Field(
        default=None, description="The same of the images of `utility.test`."
    )
    least_score: float = Field(
        default=0.05, gt=0, lt=1, description="Frozen: least score of what counts as found."
    )
    model: Model = Field(
        default="fasterrcnn_resnet50_fpn", description="Fine-tuning: torchvision's detector."
    )
    weights: Path | None = Field(
        default=None,
        description="Fine-tuning: a file of its weights (.safetensors, or a state dictionary of "
        "torch); null: random ones.",
    )
    image_size: PositiveInt | None = Field(
        default=None, description="Fine-tuning: side that images are brought to; null: its own."
    )
    epochs: PositiveInt = Field(default=12, description="Fine-tuning: passes over the images.")
    batch_size: PositiveInt = Field(default=4, description="Fine-tuning: images of a batch.")
    accumulation: PositiveInt = Field(default=4, description="Fine-tuning: batches of a step.")
    learning_rate: PositiveFloat = Field(
        default=1e-4, description="Fine-tuning: highest learning rate."
    )
    warmup_share: float = Field(
        default=0.05, ge=0, lt=1, description="Fine-tuning: share of warm-up steps."
    )
    weight_decay: NonNegativeFloat = Field(default=1e-4, description="Fine-tuning: of AdamW.")
    device: str = Field(default="cpu", description="Fine-tuning: cpu, cuda or cuda:1.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Fine-tuning: arithmetic of the forward pass."
    )

    @property
    @override
    def trains(self) -> bool:
        return self.mode == "finetune"

    @property
    @override
    def definition(self) -> str:
        measure = "COCO's mAP (IoU 0.50 to 0.95, and 0.50) against the original annotations"
        if self.mode == "frozen":
            return (
                f"{measure}, of a given detector on each row's own images, all that there are: "
                "nothing is trained. Classes that the detector does not know are left out."
            )
        return (
            f"{measure}; the detector is trained for {self.epochs} epochs on the row's images "
            f"with them, batch {self.batch_size} x {self.accumulation}, learning rate "
            f"{self.learning_rate:g}."
        )

    @property
    @override
    def model_name(self) -> str:
        if self.mode == "frozen":
            return "NanoDet, frozen"
        start = shown(str(self.weights)) if self.weights else "random weights"
        return f"{self.model} from {start}"

    @override
    def unavailable(self, bench: Bench) -> str:
        try:
            known = self._boxes(bench, test=False)
            if self.trains:
                self._boxes(bench, test=True)
        except UsageError as error:
            return without_paths(error, self.annotations, self.test_annotations)
        if not self.trains and not self._known(known):
            return "none of the annotated classes is one of COCO's, which the detector knows"
        if self.weights is not None and not self.weights.expanduser().is_file():
            return f"utility.detection.weights={self.weights.name}: no such file"
        return ""

    def _boxes(self, bench: Bench, *, test: bool) -> Annotations:
        key = ("boxes", "test" if test and not bench.same_source else "train", "")
        if key not in bench.memo:
            if key[1] == "test":
                found = read_annotations(bench.test_source, self.test_annotations)
            else:
                found = read_annotations(bench.source, self.annotations)
            bench.memo[key] = found
        annotations: Annotations = bench.memo[key]
        return annotations

    def _known(self, annotations: Annotations) -> list[str]:
        """The classes that are looked for."""
        if self.trains:
            return list(annotations.categories)
        return [c for c in annotations.categories if _ALIASES.get(c, c) in COCO_CLASSES]

    def _of(self, example: Example, bench: Bench) -> tuple[Annotated, ...]:
        annotations = self._boxes(bench, test=example.row == TEST)
        known = set(self._known(annotations))
        objects = annotations.by_image.get(example.image_id, ())
        return tuple(each for each in objects if each.category in known)

    @override
    def usable(self, example: Example, bench: Bench) -> bool:
        """Annotated images; to train on, those with an object."""
        if self.trains and example.row != TEST:
            return any(not each.crowd and each.box.area > 0 for each in self._of(example, bench))
        return example.image_id in self._boxes(bench, test=example.row == TEST).by_image

    def _pixels(self, example: Example, bench: Bench) -> RgbImage:
        """The image in the geometry of its boxes, whatever size it was published in."""
        height, width = self._boxes(bench, test=example.row == TEST).sizes[example.image_id]
        return resized(example.read(), height, width)

    @override
    def measure(
        self, train: Sequence[Example], test: Sequence[Example], seed: int, bench: Bench
    ) -> list[Item]:
        classes = self._known(self._boxes(bench, test=False))
        truth = [self._of(example, bench) for example in test]
        if self.trains:
            unknown = {each.category for objects in truth for each in objects} - set(classes)
            if unknown:
                raise TooLittleError(f"the test set has classes of its own: {min(unknown)}")
            found = self._finetuned(train, test, classes, seed, bench)
        else:
            found = self._frozen(test, classes, bench)
        return match(classes, truth, found)

    def _frozen(
        self, examples: Sequence[Example], classes: Sequence[str], bench: Bench
    ) -> list[list[Detected]]:
        detector = self._detector(bench.perception.threads)
        number = {_ALIASES.get(name, name): index for index, name in enumerate(classes)}
        return [
            [
                Detected(number[each.label], each.box, each.score)
                for each in detector.detect([self._pixels(example, bench)])[0]
                if each.label in number
            ]
            for example in examples
        ]

    def _detector(self, threads: int) -> ObjectDetector:
        return ObjectDetector(self.least_score, threads)

    def _finetuned(
        self,
        examples: Sequence[Example],
        test: Sequence[Example],
        classes: Sequence[str],
        seed: int,
        bench: Bench,
    ) -> list[list[Detected]]:
        import torch

        number = {name: index for index, name in enumerate(classes)}
        with seeded(bench.draw(seed, "detection")):
            detector = self._load(len(classes))
            device = next(detector.parameters()).device

            def loss_of(_: int, indices: list[int]) -> torch.Tensor:
                some = [examples[index] for index in indices]
                images = [_picture(self._pixels(example, bench)).to(device) for example in some]
                targets = [_target(self._of(e, bench), number, device) for e in some]
                with autocast(self.device, self.precision):
                    losses = detector(images, targets)
                return torch.stack([loss.float() for loss in losses.values()]).sum()

            detector.train()
            train(
                [{"params": [p for p in detector.parameters() if p.requires_grad],
                  "lr": self.learning_rate}],
                loss_of,
                self,
                count=len(examples),
                seed=bench.draw(seed, "order"),
            )  # fmt: skip
            detector.eval()
            with torch.inference_mode():
                return [
                    _detected(detector([_picture(self._pixels(e, bench)).to(device)])[0])
                    for e in test
                ]

    def _load(self, classes: int) -> Any:
        """Torchvision's detector with its background class, and the weights that fit it."""
        from torchvision.models import detection

        sides: dict[str, Any] = {}
        if self.image_size and self.model.startswith("fasterrcnn"):
            sides = {"min_size": self.image_size, "max_size": 2 * self.image_size}
        detector = getattr(detection, self.model)(
            weights=None, weights_backbone=None, num_classes=classes + 1, **sides
        )
        if self.weights is not None:
            own = detector.state_dict()
            fitting = {  # a head for other classes does not fit
                name: value
                for name, value in self._state.items()
                if name in own and own[name].shape == value.shape
            }
            if not fitting:
                raise UsageError(
                    f"utility.detection.weights={self.weights.name} holds none of {self.model}"
                )
            detector.load_state_dict(fitting, strict=False)
        return detector.to(checked_device(self.device, "utility.detection.device"))

    @cached_property
    def _state(self) -> Mapping[str, Any]:
        import torch
        from safetensors.torch import load_file

        assert self.weights is not None
        path = self.weights.expanduser()
        try:
            if path.suffix == ".safetensors":
                return load_file(path)
            found: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UsageError(
                f"utility.detection.weights={path.name} cannot be read: {type(error).__name__}"
            ) from None
        return found

    @override
    def pack(self, items: Sequence[Item]) -> Any:
        return pack(items)

    @override
    def figures(self, packed: Any, chosen: Any) -> dict[str, float]:
        over, at_half = average_precision(packed, chosen)
        return {"map": over, "map50": at_half}


def _picture(pixels: RgbImage) -> torch.Tensor:
    """(3, H, W) in [0, 1]; torchvision's detectors normalize by themselves."""
    import torch

    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def _target(objects: Sequence[Annotated], number: Mapping[str, int], device: Any) -> dict[str, Any]:
    """Corners and classes, from 1 on: 0 is the background."""
    import torch

    real = [each for each in objects if not each.crowd and each.box.area > 0]
    corners = [[each.box.x, each.box.y, each.box.right, each.box.bottom] for each in real]
    labels = [1 + number[each.category] for each in real]
    return {
        "boxes": torch.tensor(corners, dtype=torch.float32, device=device).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64, device=device),
    }


def _detected(found: Mapping[str, Any]) -> list[Detected]:
    boxes, labels, scores = (found[key].cpu().tolist() for key in ("boxes", "labels", "scores"))
    return [
        Detected(label - 1, Box(left, top, right - left, bottom - top), score)
        for (left, top, right, bottom), label, score in zip(boxes, labels, scores, strict=True)
    ]
