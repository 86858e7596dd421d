"""Fine-tuning a ViT as MAE's authors do, with the paper's settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.pretrained import load
from unsafe2safe.editors.library_logs import quiet
from unsafe2safe.evaluation.utility.loops import Precision, autocast, seeded, seeded_on_cpu, train
from unsafe2safe.vision.arrays import RgbImage, resized

if TYPE_CHECKING:
    import torch

Read = Callable[[], RgbImage]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_LEAST_AREA = 0.35  # of a training crop


@dataclass(frozen=True)
class ViTSettings:
    """See the fields of the same names of ``utility.classification``."""

    model: str
    revision: str
    epochs: int
    batch_size: int
    accumulation: int
    learning_rate: float
    layer_decay: float
    warmup_share: float
    weight_decay: float
    augment_operations: int
    augment_magnitude: int
    augment_probability: float
    device: str
    precision: Precision


def load_vit(settings: ViTSettings, classes: int) -> Any:
    """A ViT for ``classes`` labels whose head is new; a masked autoencoder's encoder will do.

    Raises:
        UsageError: the weights are missing.
    """
    from transformers import ViTForImageClassification

    # That the head is new, which they warn of, is what is asked for.
    with quiet("transformers.modeling_utils"), quiet("transformers.configuration_utils"):
        model = load(
            ViTForImageClassification.from_pretrained,
            settings.model,
            revision=settings.revision,
            trust_remote_code=False,
            num_labels=classes,
            ignore_mismatched_sizes=True,
        )
    return model.to(checked_device(settings.device, "utility.classification.device"))


def train_and_classify(
    settings: ViTSettings,
    images: Sequence[Read],
    labels: NDArray[np.int64],
    keys: Sequence[int],
    test: Sequence[Read],
    classes: int,
    seed: int,
) -> NDArray[np.int64]:
    """The class of each test image, told by a ViT that was trained on ``images``.

    ``keys`` seed the augmentation of each image, the same in every row.
    """
    import torch

    with seeded(seed):
        model = load_vit(settings, classes)
        side = int(model.config.image_size)
        augment = Augmentation(settings, side)
        target = torch.from_numpy(labels).to(model.device)

        def loss_of(epoch: int, indices: list[int]) -> torch.Tensor:
            batch = torch.stack([augment(images[i](), keys[i] + epoch) for i in indices])
            with autocast(settings.device, settings.precision):
                logits = model(pixel_values=batch.to(model.device)).logits
            loss: torch.Tensor = torch.nn.functional.cross_entropy(logits.float(), target[indices])
            return loss

        model.train()
        train(
            layer_groups(model, settings.learning_rate, settings.layer_decay),
            loss_of,
            settings,
            count=len(images),
            seed=seed,
        )
        model.eval()
        found = [
            classify(model, test[start : start + settings.batch_size], side, settings)
            for start in range(0, len(test), settings.batch_size)
        ]
    return np.concatenate(found)


def classify(
    model: Any, images: Sequence[Read], side: int, settings: ViTSettings
) -> NDArray[np.int64]:
    """Classes of whole frames brought to ``side``, without cropping."""
    import torch

    batch = torch.stack([normalized(resized(read(), side, side)) for read in images])
    with torch.inference_mode(), autocast(settings.device, settings.precision):
        logits = model(pixel_values=batch.to(model.device)).logits
    found: NDArray[np.int64] = logits.argmax(dim=-1).cpu().numpy()
    return found


def normalized(image: RgbImage) -> torch.Tensor:
    """(3, H, W) float, by ImageNet's mean and deviation."""
    from torchvision.transforms.v2 import functional

    pixels = functional.to_dtype(_tensor(image), _float(), scale=True)
    result: torch.Tensor = functional.normalize(pixels, list(_MEAN), list(_DEVIATION))
    return result


class Augmentation:
    """A random crop, a flip, and RandAugment whose operations each come with a chance."""

    def __init__(self, settings: ViTSettings, side: int) -> None:
        from torchvision.transforms import v2

        self._crop = v2.RandomResizedCrop((side, side), (_LEAST_AREA, 1.0), antialias=True)
        self._flip = v2.RandomHorizontalFlip()
        operation = v2.RandAugment(num_ops=1, magnitude=settings.augment_magnitude)
        self._operations = v2.Compose(
            [
                v2.RandomApply([operation], settings.augment_probability)
                for _ in range(settings.augment_operations)
            ]
            or [v2.Identity()]
        )

    def __call__(self, image: RgbImage, key: int) -> torch.Tensor:
        """(3, side, side) float; the same for the same image and ``key``."""
        with seeded_on_cpu(key % 2**63):
            pixels = self._flip(self._crop(_tensor(image)))
            changed = self._operations(pixels)
        return normalized(changed.permute(1, 2, 0).numpy())


def layer_groups(model: Any, rate: float, decay: float) -> list[dict[str, Any]]:
    """Parameters by layer, each layer's learning rate ``decay`` times that of the one above."""
    layers = int(model.config.num_hidden_layers)
    by_rate: dict[float, list[Any]] = {}
    for name, parameter in model.named_parameters():
        found = re.search(r"\blayers?\.(\d+)\.", name)
        above = 0 if "embeddings" in name else layers + 1
        depth = int(found[1]) + 1 if found else above
        by_rate.setdefault(rate * decay ** (layers + 1 - depth), []).append(parameter)
    return [{"params": parameters, "lr": lr} for lr, parameters in by_rate.items()]


def _tensor(image: RgbImage) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _float() -> torch.dtype:
    import torch

    return torch.float32
