"""What exiftool, a reader that shares nothing with ours, finds in a file beside its picture."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# What a file of each kind has by being one: sizes, how samples are coded, where strips lie.
_STRUCTURE = {
    "File": {"FileType", "FileTypeExtension", "MIMEType", "ExifByteOrder", "ImageWidth",
             "ImageHeight", "EncodingProcess", "BitsPerSample", "ColorComponents",
             "YCbCrSubSampling"},
    "Composite": {"ImageSize", "Megapixels"},
    "JFIF": {"JFIFVersion", "ResolutionUnit", "XResolution", "YResolution"},
    "APP14": {"DCTEncodeVersion", "APP14Flags0", "APP14Flags1", "ColorTransform"},
    "PNG": {"ImageWidth", "ImageHeight", "BitDepth", "ColorType", "Compression", "Filter",
            "Interlace", "Palette"},
    "RIFF": {"WebP_Flags", "ImageWidth", "ImageHeight", "VP8Version", "HorizontalScale",
             "VerticalScale", "AlphaIsUsed"},
}  # fmt: skip
_TIFF = {"ImageWidth", "ImageHeight", "BitsPerSample", "Compression", "PhotometricInterpretation",
         "StripOffsets", "SamplesPerPixel", "RowsPerStrip", "StripByteCounts", "Predictor",
         "PlanarConfiguration", "SampleFormat"}  # fmt: skip
_ALLOWED = {"IFD0": {"Copyright"}, "XMP-iptcExt": {"DigitalSourceType"}}


def read_tags(paths: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """All tags of files, unknown and repeated ones too, by ``Group:Tag``, in one call.

    Skips the test where exiftool is not installed (a failure with CI=1).
    """
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    asked = ("-json", "-G1", "-a", "-u", "-U", "-ee")
    finished = subprocess.run(
        [program, *asked, "-@", "-"],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    rows = json.loads(finished.stdout)
    assert len(rows) == len(paths), finished.stderr
    return dict(zip(paths, rows, strict=True))


def beyond_structure(tags: dict[str, Any], icc: bool = False) -> list[str]:
    """Tags that are neither structure nor on the allow-list; warnings count as one."""
    tiff = tags.get("File:FileType") == "TIFF"
    left = []
    for name, value in tags.items():
        group, _, tag = name.rpartition(":")
        if not group or (group in ("System", "ExifTool") and tag != "Warning"):
            continue
        known = _STRUCTURE.get(group, set()) | _ALLOWED.get(group, set())
        if tiff and group == "IFD0":
            known |= _TIFF
        named = name == "PNG:ProfileName" and value == "ICC Profile"
        if tag not in known and not (icc and (named or group.startswith("ICC"))):
            left.append(name)
    return left
