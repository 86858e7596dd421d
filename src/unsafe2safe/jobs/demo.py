"""The last step of ``make demo``: what the four scripts left, and the before/after strip.

The strip shows an original, so it is made of a public-domain photograph only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from PIL import Image

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import atomic_path
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import Outcome
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.evaluation.results import Evaluation

_STRIP_PHOTO = "astronaut.jpg"  # NASA portrait, public domain
_STRIP_HEIGHT = 360
_GAP = 12


def summary(root: Path) -> str:
    """What lies in the demo's folder, in a few lines."""
    runs = {name: _complete(root / name) for name in _STEPS}
    described, redacted = runs["triplets"]["counts"], runs["redacted"]["counts"]
    edited, trained = runs["edited"]["counts"], runs["training"]
    lines = [
        "",
        f"triplets     {described['unsafe']} of {described['images']} photographs are unsafe",
        f"redacted     {redacted['safe'] + redacted['anonymized']} published, "
        f"{redacted['needs_review'] + redacted['failed']} held back",
        f"adapter      {trained['counts'].get('steps', '?')} steps on {redacted['pairs']} pairs",
        f"tiny editor  {edited['safe'] + edited['anonymized']} published, "
        f"{edited['needs_review'] + edited['failed']} held back "
        "(it knows drawn scenes only: on photographs it blots out)",
        f"anonymized   {root / 'redacted' / 'published'}",
        f"metrics      {root / 'evaluation' / 'metrics.json'}",
        f"report       {root / 'evaluation' / 'report.html'}",
        "",
        f"fine-tuning on {runs['scenes']['counts']['images']} scenes in other words and layouts, "
        "asked changes found / original values still found / SSIM outside:",
        *_scene_lines(Evaluation.read(root / "scenes" / "metrics.json")),
        f"report       {root / 'scenes' / 'report.html'}",
    ]
    return "\n".join(lines)


_TOLD = ("followed", "leaked", "outside_ssim")
_ROWS = {
    "base": "before",
    "finetuned": "after",
    "identity": "no edit",
    "target_reconstruction": "best possible",
}


def _scene_lines(evaluation: Evaluation) -> list[str]:
    """Before, after, and what bounds them."""
    lines = []
    for row in evaluation.rows:
        if row.name in _ROWS:
            values = (row.metrics[name].value for name in _TOLD)
            told = " / ".join("-" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"{_ROWS[row.name]:12} {told}")
    return lines


def draw_strip(root: Path, target: Path) -> None:
    """Before and after of one public-domain photograph, side by side, as a JPEG."""
    outcomes = read_records(root / "redacted" / "manifest.parquet", Outcome)
    name = next(o.published_as for o in outcomes if o.image_id == _STRIP_PHOTO)
    if name is None:
        return
    pictures = []
    for path in (photos_folder() / _STRIP_PHOTO, root / "redacted" / "published" / name):
        picture = Image.open(path).convert("RGB")
        width = round(picture.width * _STRIP_HEIGHT / picture.height)
        pictures.append(picture.resize((width, _STRIP_HEIGHT), Image.Resampling.LANCZOS))
    strip = Image.new("RGB", (sum(p.width for p in pictures) + _GAP, _STRIP_HEIGHT), "white")
    strip.paste(pictures[0], (0, 0))
    strip.paste(pictures[1], (pictures[0].width + _GAP, 0))
    with atomic_path(target) as temporary:
        strip.save(temporary, "JPEG", quality=90)


_STEPS = ("triplets", "redacted", "training", "edited", "evaluation", "finetuned", "scenes")


def _complete(folder: Path) -> dict[str, Any]:
    state = read_run(folder)
    if state is None or state["status"] != "complete":
        raise UsageError(f"{folder} is not complete; run `make demo` again")
    return state


if __name__ == "__main__":
    demo_root = Path(sys.argv[1])
    print(summary(demo_root))
    draw_strip(demo_root, demo_root / "before_after.jpg")
