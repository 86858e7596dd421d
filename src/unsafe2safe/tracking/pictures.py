"""Pictures as the bytes that trackers keep."""

from __future__ import annotations

import base64
import io

from PIL import Image

from unsafe2safe.tracking.guard import Pixels


def png(image: Pixels) -> bytes:
    """``image`` (H, W, 3) uint8 RGB as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def inline_png(image: Pixels) -> str:
    """The same as a ``data:`` address, for HTML that holds its pictures."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
