"""A sheet of the sample photographs before and after a run of anonymize.py, to look at.

    python -m unsafe2safe.jobs.photo_sheet RUN FILE.jpg

It shows originals, so it takes only runs over the photographs of the package, which may be shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import atomic_path, inside, sha256
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import Outcome
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.samples import SamplesSource
from unsafe2safe.data.source import ImageSource

_ACROSS = 3
_CELL = 200  # pixels: the longer side of each picture
_CAPTION = 18
_GAP = 8


def sheet(run: Path) -> Image.Image:
    """Each photograph beside what was published of it, or beside why nothing was.

    Raises:
        UsageError: the run is not complete, or is over other pictures.
    """
    state = read_run(run)
    if state is None or state["script"] != "anonymize" or state["status"] != "complete":
        raise UsageError(f"{run} is no complete run folder of anonymize.py")
    source = SamplesSource()
    if (root := state["config"]["dataset"].get("root")) is not None:
        _check_shipped(Path(root), source)
    outcomes = read_records(run / "manifest.parquet", Outcome)
    down = -(-len(outcomes) // _ACROSS)
    wide, high = 2 * _CELL + 2 * _GAP, _CELL + _CAPTION + _GAP
    whole = Image.new("RGB", (_ACROSS * wide, down * high), "white")
    font = ImageFont.load_default(12)
    for number, outcome in enumerate(outcomes):
        left, top = number % _ACROSS * wide, number // _ACROSS * high
        original = Image.fromarray(source.decode(source.record(outcome.image_id)).pixels)
        whole.paste(_fitted(original), (left, top + _CAPTION))
        if outcome.published_as is not None:
            published = Image.open(inside(run / "published", outcome.published_as))
            whole.paste(_fitted(published.convert("RGB")), (left + _CELL, top + _CAPTION))
        told = f"{outcome.image_id}: {outcome.state}"
        if outcome.published_as is None:
            told += f" ({outcome.reason})"
        ImageDraw.Draw(whole).text((left, top), told, "black", font)
    return whole


def _fitted(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_CELL - 2, _CELL), Image.Resampling.LANCZOS)
    return picture


def _check_shipped(root: Path, shipped: ImageSource) -> None:
    """Whether a folder holds copies of the package's photographs and nothing else."""
    known = {record.image_id: sha256(record.path.read_bytes()) for record in shipped.records()}
    for path in root.rglob("*"):
        told = path.relative_to(root).as_posix()
        if path.is_file() and known.get(told) != sha256(path.read_bytes()):
            raise UsageError(f"{root} holds {told}, which is no photograph of the package")


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[2])) as temporary:
        sheet(Path(sys.argv[1])).save(temporary, "JPEG", quality=80, optimize=True)
