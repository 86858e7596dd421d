"""Any colour mode to 8-bit sRGB: profiles, deep gray, palettes, inks, transparency."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms


class Converted(NamedTuple):
    """An 8-bit RGB image, and what became of the file's ICC profile."""

    image: Image.Image
    profile: bytes | None  # the file's own, where the pixels are still in it
    other_profile: bytes | None  # an RGB profile out of which the pixels were converted


def to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Converted:
    """An 8-bit sRGB image of any mode that Pillow decodes to, shown on white.

    ``profile`` is the file's ICC profile; without it the values stay as they are stored. What was
    done is added to ``notes``.
    """
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("converted from 16-bit" if "16" in image.mode else "converted from 32-bit")
        image, profile = _deep_to_gray(image), None
    elif image.mode in ("1", "L", "LA", "La"):
        notes.append("converted from gray")
    elif image.mode in ("P", "PA"):
        notes.append("converted from a palette")
    if image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
    elif image.mode in ("P", "PA", "LA", "La", "RGBa", "RGBX") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("1", "YCbCr", "HSV"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    if alpha is not None:
        image = image.convert("RGB")
    if image.mode in ("CMYK", "LAB"):
        notes.append(f"converted from {image.mode}")
    converted = _through_profile(image, profile, notes)
    image = converted.image
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("alpha composited on white")
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return converted._replace(image=image)


def from_srgb(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """SRGB ``pixels`` (H, W, 3) uint8 in the colour space of an RGB profile.

    Raises:
        ValueError: the profile only tells the way from its space, not into it.
    """
    try:
        converted = ImageCms.profileToProfile(
            Image.fromarray(pixels),
            ImageCms.createProfile("sRGB"),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, ValueError, OSError) as error:
        raise ValueError(f"ICC profile cannot be written to ({type(error).__name__})") from None
    result: NDArray[np.uint8] = np.asarray(converted)
    return result


def _deep_to_gray(image: Image.Image) -> Image.Image:
    """16-bit gray scaled by 1/257; 32-bit gray, which has no defined white, by its own range."""
    values: NDArray[Any] = np.asarray(image)
    if "16" in image.mode:
        scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    else:
        wide = values.astype(np.float64)
        if not np.isfinite(wide).all():
            raise ValueError("non-finite pixels")
        low, high = float(wide.min()), float(wide.max())
        scaled = np.rint((wide - low) * (255.0 / (high - low) if high > low else 0.0))
    return Image.fromarray(scaled.astype(np.uint8))


def _through_profile(image: Image.Image, profile: bytes | None, notes: list[str]) -> Converted:
    space = ""
    if image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    elif profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            name = ImageCms.getProfileDescription(source).strip()
        except Exception:  # what is in a file's profile is anyone's guess
            notes.append("damaged ICC profile ignored")
            return Converted(image, None, None)
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if space != {"L": "GRAY"}.get(image.mode, image.mode):
            notes.append("ICC profile of another colour space ignored")
            return Converted(image, None, None)
        if space == "RGB" and name.lower().startswith("srgb"):
            return Converted(image, profile, None)
    else:
        return Converted(image, None, None)
    try:
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, ValueError, OSError):
        if image.mode == "LAB":
            raise
        notes.append("ICC profile that cannot be applied ignored")
        return Converted(image, None, None)
    if profile:
        notes.append("converted from its ICC profile to sRGB")
    return Converted(converted or image, None, profile if space == "RGB" else None)
