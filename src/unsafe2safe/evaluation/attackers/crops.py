"""What an attacker looks at: persons, cut out so that nothing public is in the crop.

An anonymizer keeps the background, the layout and the pose on purpose. A crop that shows any of it
is recognised by it, whoever stands there, and every anonymizer would seem to fail. So a crop holds
only pixels that belong to a person whatever the person looks like, and the same ones in original
and edited image; the rest is grey. Where they lie is public: nothing in it tells of the original.

- Of drawn scenes: the inner part of the head and the left of the chest around each spot. Outlines
  are left out, for hair of another style is not at the same place; the right of the chest, for a
  name tag may hang there and who wears one is public.
- Of photographs: the ellipse in each box of a face that is detected in the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from unsafe2safe.data.synthetic.attributes import UNITS
from unsafe2safe.metrics.base import Arrays, PairSample
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.arrays import FloatArray
from unsafe2safe.vision.attribute_reader import person_window

Crops = NDArray[np.uint8]  # (K, side, side, 3) RGB
Window = tuple[float, float, float, float]  # left, top, right, bottom in pixels

MODEL = "EfficientNet-Lite0 features of crops"
EMBEDDING = "efficientnet_lite0"
_GREY = 127
_REACH = 2.05  # radii from the centre of a head to the edge of its window
_FACE_INNER = 0.95  # of the ellipse in a face's box

Found = TypeVar("Found")


def identities(sample: PairSample) -> int:
    """How many persons of the original have a crop."""
    return len(_windows(sample))


def crop_arrays(sample: PairSample, side: int, *, embedded: bool) -> Arrays:
    """Crops of the original and the edited image as arrays of a :class:`SetMetric`.

    ``original.crops_32`` and ``edited.crops_32`` for a ``side`` of 32, (K, 32, 32, 3) uint8, and
    if ``embedded`` also ``original.crops_32.efficientnet_lite0``, (K, 1280) float32.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, features in (("original", sample.original), ("edited", sample.after)):
        crops = _once(features, (sample.name, side), partial(_cut, features, sample, side))
        arrays[f"{name}.crops_{side}"] = crops
        if embedded:
            arrays[f"{name}.crops_{side}.{EMBEDDING}"] = _once(
                features, (sample.name, side, EMBEDDING), partial(embed, features, crops)
            )
    return arrays


def embed(features: ImageFeatures, crops: Crops) -> FloatArray:
    """(K, 1280) features of crops by the network that ``features`` is seen with."""
    return features.perception.features.features(list(crops))


def joined(found: Sequence[Arrays], name: str) -> NDArray[Any]:
    """The arrays ``name`` of all pairs, one after the other."""
    return np.concatenate([arrays[name] for arrays in found])


def images_of(found: Sequence[Arrays], name: str) -> NDArray[np.int64]:
    """(N,) for each identity of the array ``name`` the number of its pair."""
    return np.repeat(np.arange(len(found)), [len(arrays[name]) for arrays in found])


def _once(features: ImageFeatures, key: tuple[Any, ...], make: Callable[[], Found]) -> Found:
    """What ``make`` gives, once for an image: several attackers and rows ask for the same."""
    if key not in features.derived:
        features.derived[key] = make()
    found: Found = features.derived[key]
    return found


def _windows(sample: PairSample) -> list[Window]:
    if sample.truth is not None:
        scale = sample.original.size[0] / UNITS
        spots = sample.truth.redrawn.source.public.spots
        windows = [person_window(spot) for spot in spots]
        return [(w.left * scale, w.top * scale, w.right * scale, w.bottom * scale) for w in windows]
    boxes = [face.box for face in sample.original.faces]
    return [(box.x, box.y, box.right, box.bottom) for box in boxes]


def _cut(features: ImageFeatures, sample: PairSample, side: int) -> Crops:
    shown = scene_template(side) if sample.truth is not None else face_template(side)
    crops = [_crop(features.pixels, window, side) for window in _windows(sample)]
    if not crops:
        return np.zeros((0, side, side, 3), np.uint8)
    return np.where(shown[..., None], np.stack(crops), np.uint8(_GREY))


def _crop(pixels: NDArray[np.uint8], window: Window, side: int) -> NDArray[np.uint8]:
    left, top, right, bottom = window
    across, down = (right - left) / side, (bottom - top) / side
    # Large windows are averaged over the area of each pixel: detail would be sampled at random,
    # and a blur would bring in what is outside.
    times = max(1, math.ceil(max(across, down)))
    across, down = across / times, down / times
    # centres of pixels lie at halves in the window, at whole numbers in an image
    move = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = side * times, side * times
    found = cv2.warpAffine(pixels, move, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if times > 1:
        found = cv2.resize(found, (side, side), interpolation=cv2.INTER_AREA)
    crop: NDArray[np.uint8] = found
    return crop


def scene_template(side: int) -> NDArray[np.bool_]:
    """(side, side) bool: what of a window shows a drawn person, whatever the attributes.

    It keeps more than a pixel of a scene of 64 away from every outline: where a jaw or a shoulder
    ends, smoothing mixes in what is behind.
    """
    u, v = _grid(side, _REACH)
    wide, high = np.where(v < 0, 0.78, 0.70), np.where(v < 0, 0.95, 0.85)  # hair covers the top
    head = (u / wide) ** 2 + (v / high) ** 2 <= 1
    chest = (u >= -1.2) & (u <= -0.1) & (v >= 1.7)
    return head | chest


def face_template(side: int) -> NDArray[np.bool_]:
    """(side, side) bool: the ellipse in a face's box."""
    u, v = _grid(side, 1.0)
    inside: NDArray[np.bool_] = u**2 + v**2 <= _FACE_INNER**2
    return inside


def _grid(side: int, reach: float) -> tuple[FloatArray, FloatArray]:
    line = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1) * np.float32(reach)
    u, v = np.meshgrid(line, line)
    return u.astype(np.float32), v.astype(np.float32)
