"""Files as they turn up in real folders: half, empty, misnamed, huge, in rare colour modes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

AWKWARD_NAME = 'Zoë\'s "best" photo, Ünïcode 写真.jpg'


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """(H, W, 3) uint8 in which every corner is another colour, so that turns can be told apart."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return np.stack([x, y, 255 - (x + y) / 2], axis=-1).round().astype(np.uint8)


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png_header(side: int = 30_000) -> bytes:
    """A PNG of a few bytes that claims ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def palette_with_transparency() -> Image.Image:
    """Left half red, right half transparent (black behind)."""
    image = Image.new("P", (8, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(1, (4, 0, 8, 4))
    image.info["transparency"] = 1
    return image


def write_odd_images(folder: Path) -> dict[str, str | None]:
    """Write one file of each kind into ``folder``.

    Returns, by file name, None where the file decodes, else a part of the reason it fails with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(gradient())
    jpeg = saved(picture, "JPEG", quality=95)
    deep = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    frames = [Image.new("P", (24, 16), index) for index in range(3)]
    files: dict[str, tuple[bytes, str | None]] = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "zero_bytes.jpg": (b"", "empty file"),
        "text.jpg": (b"this is no picture\n" * 20, "not an image"),
        "huge.png": (huge_png_header(), "pixels"),
        "cmyk.jpg": (saved(picture.convert("CMYK"), "JPEG", quality=95), None),
        "sixteen_bit.png": (saved(Image.fromarray(deep), "PNG"), None),
        "palette.png": (saved(palette_with_transparency(), "PNG", transparency=1), None),
        "animated.gif": (
            saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40),
            None,
        ),
        AWKWARD_NAME: (jpeg, None),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: expected for name, (_, expected) in files.items()}
