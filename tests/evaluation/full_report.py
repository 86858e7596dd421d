"""An evaluation with all that a report can show, made without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Evaluate, Report
from unsafe2safe.core.records import MetricResult
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.evaluation.report.page import Shown
from unsafe2safe.evaluation.report.per_image import ImageValues
from unsafe2safe.evaluation.report.pictures import Picture, data_uri, outline
from unsafe2safe.evaluation.results import (
    Comparison,
    Definition,
    Evaluation,
    ReferenceCheck,
    RowResult,
    Stratum,
    UtilityRow,
    UtilityTable,
)

IMAGES = 240
# name | title | group | direction | unit | a value for each row
_TABLE = """
face_leak_rate | Faces recognised | privacy | down | face | .03 .11 .21 1 .62 .02 .01
face_sim | FaceSim | privacy | down | face | .18 .26 .33 1 .71 .14 .11
text_leak_recall | Text read back | privacy | down | text | .05 .02 .12 1 .31 0 .01
reid_naive | Re-identified, naive attacker | privacy | down | image | .02 .06 .15 1 .41 .01 0
reid_adaptive | Re-identified, adaptive attacker | privacy | down | image | .04 .09 .28 1 .66 .02 0
vlm_score | VLMScore | privacy | up | image | 0 0 0 0 0 0 0
ssim_inside | SSIM inside the masks | cheating | down | image | .31 .52 .48 1 .66 .22 .12
copy_rate | Pixels copied inside | cheating | down | image | .04 .12 .05 1 .08 0 .01
ssim_outside | SSIM outside the masks | quality | up | image | .986 .991 .921 1 .58 1 .14
psnr_outside | PSNR outside the masks (dB) | quality | up | image | 41.2 44 33.1 100 22.4 100 9.2
kid | KID, embedded features | quality | down | image | .013 .008 .021 0 .09 .044 0
followed | Asked changes found | utility | up | value | .71 .64 .68 .06 .09 .21 .11
"""
METRICS = {
    name: (title, group, direction, unit, tuple(map(float, values.split())))
    for name, title, group, direction, unit, values in (
        line.split(" | ") for line in _TABLE.strip().splitlines()
    )
}
ROWS = (
    ("ladder", "tiny with ladder", "run"),
    ("redact", "redact inpaint", "run"),
    ("early", "tiny, checkpoint 400", "run"),
    ("identity", "identity (no edit)", "reference"),
    ("blur", "blur (whole frame)", "reference"),
    ("mask", "mask (grey)", "reference"),
    ("unrelated", "unrelated (another original)", "reference"),
)
PER_IMAGE = (
    "face_leak_rate",
    "face_sim",
    "text_leak_recall",
    "ssim_inside",
    "ssim_outside",
    "psnr_outside",
)
REASONS = {"needs_review: a face is still found": 9, "failed: truncated": 2}
PHOTOS = ("astronaut.jpg", "cat.jpg", "coffee_note.jpg", "vice_president.jpg")


def settings(**changes: object) -> Report:
    config = load("evaluate", [])
    assert isinstance(config, Evaluate)
    return config.report.model_copy(update=changes)


def _result(name: str, index: int) -> MetricResult:
    value = METRICS[name][4][index]
    held = sum(REASONS.values()) if index == 0 else 0
    if name == "vlm_score":
        return MetricResult(None, 0, unavailable="needs the judge's weights (vision.judge is null)")
    spread = 0.02 + 0.06 * value * (1 - min(value, 1.0)) if name != "psnr_outside" else 1.1
    top = 1.0 if value <= 1 else 200.0
    ends = (max(value - spread, 0.0), min(value + spread, top))
    interval = ends if 0 < value < 1 or value > 1 else (value, value)
    details: dict[str, float] = {}
    if name.startswith("reid"):
        measurable = not (name == "reid_adaptive" and index == 2)
        details = {
            "chance": 0.0042,
            "chance_high": 0.0125,
            "half_width": spread,
            "measurable": float(measurable),
            "tar_at_far_0.001": value * 0.6,
        }
    return MetricResult(value, IMAGES - held, held, 0, interval, details)


def full_evaluation() -> Evaluation:
    definitions = tuple(
        Definition(
            name,
            title,
            group,
            direction,
            unit,
            f"What {title} means: a figure of each {unit}, averaged over all of them.",
            "dlib_face_recognition_resnet_model_v1" if "face" in name else "",
            {"distance": 0.6} if name == "face_leak_rate" else {},
        )
        for name, (title, group, direction, unit, _) in METRICS.items()
    )
    rows = tuple(
        RowResult(
            name,
            title,
            kind,
            IMAGES - (sum(REASONS.values()) if index == 0 else 0),
            3 * (index == 1),
            1 if index == 0 else 0,
            dict(REASONS) if index == 0 else {},
            {metric: _result(metric, index) for metric in METRICS},
            {metric: _result(metric, index) for metric in METRICS},
        )
        for index, (name, title, kind) in enumerate(ROWS)
    )
    return Evaluation(
        dataset="synthetic",
        images=IMAGES,
        common=229,
        seed=0,
        bootstrap=1000,
        masks="the regions that generate_triplets.py found in the originals, grown by 0.3",
        references="identity returns the original; blur is a Gaussian over the whole frame",
        definitions=definitions,
        rows=rows,
        comparisons=_comparisons(),
        strata=_strata(),
        utility=_utility(),
        checks=(
            ReferenceCheck("identity keeps every face (FaceSim)", 1.0, "1", True),
            ReferenceCheck("unrelated pairs are at chance", 0.0, "below 0.0125", True),
            ReferenceCheck("blur is re-identified less than identity", 0.41, "below 1", True),
            ReferenceCheck("mask leaves no text (text read back)", 0.03, "0", False),
        ),
    )


def _comparisons() -> tuple[Comparison, ...]:
    found = []
    for metric in ("face_leak_rate", "text_leak_recall", "ssim_outside", "followed"):
        values = METRICS[metric][4]
        for row, other in ((0, 1), (0, 2), (1, 2)):
            gap = values[row] - values[other]
            p = 0.0004 if abs(gap) > 0.06 else 0.21
            ends = (gap - 0.04, gap + 0.04)
            found.append(
                Comparison(metric, ROWS[row][0], ROWS[other][0], 229, gap, ends, p, min(1.0, 3 * p))
            )
    return tuple(found)


def _strata() -> tuple[Stratum, ...]:
    kinds = {"face_size": ("small", "medium", "large"), "persons": ("none", "one", "two or more")}
    return tuple(
        Stratum(
            by,
            value,
            80,
            {
                name: {m: _result(m, index) for m in METRICS}
                for index, (name, *_) in enumerate(ROWS)
            },
        )
        for by, values in kinds.items()
        for value in values
    )


def _utility() -> tuple[UtilityTable, ...]:
    rows = (
        ("original", "original", 0.942),
        ("drop_unsafe", "safe images only", 0.861),
        ("ladder", "tiny with ladder", 0.931),
        ("redact", "redact inpaint", 0.914),
    )
    return (
        UtilityTable(
            "classification",
            "Classification",
            "A linear probe on frozen features.",
            "efficientnet_lite0",
            (0, 1, 2),
            120,
            {"top1": "up", "macro_f1": "up"},
            (
                *tuple(
                    UtilityRow(
                        name,
                        title,
                        180,
                        {
                            "top1": MetricResult(v, 3, interval=(v - 0.01, v + 0.01)),
                            "macro_f1": MetricResult(v - 0.02, 3, interval=(v - 0.04, v)),
                        },
                    )
                    for name, title, v in rows
                ),
                UtilityRow("vit", "ViT, fine-tuned", 0, {}, "needs the weights of vit-mae-base"),
            ),
        ),
    )


def image_values() -> ImageValues:
    rng = np.random.default_rng(0)

    def column(name: str, index: int) -> Sequence[float | None]:
        value = METRICS[name][4][index]
        noise = rng.normal(0.0, 2.0 if name == "psnr_outside" else 0.12, IMAGES)
        found = value + noise if 0 < value < 1 or value > 1 else np.full(IMAGES, value)
        if name != "psnr_outside":
            found = np.clip(found, 0, 1)
        return [None if i % 7 == 3 else float(v) for i, v in enumerate(found)]

    return ImageValues(
        {
            row: {name: column(name, index) for name in PER_IMAGE}
            for index, (row, *_) in enumerate(ROWS)
        }
    )


def gallery(originals: bool) -> list[Picture]:
    shown = []
    for number, name in enumerate(PHOTOS * 2):
        pixels = decode_file(photos_folder() / name, name).pixels
        height, width = pixels.shape[:2]
        mask = np.zeros((height, width), bool)
        mask[height // 6 : height // 2, width // 3 : 2 * width // 3] = True
        edited = pixels.copy()
        edited[mask] = cv2.GaussianBlur(pixels, (0, 0), 22)[mask]
        values = {"face_leak_rate": 0.1 * number, "ssim_outside": 1.0 - 0.01 * number}
        index = number // len(PHOTOS)
        shown.append(
            Picture(
                f"{number:04x}{name[:3]}.png",
                ROWS[index][1],
                index,
                data_uri(edited),
                data_uri(pixels) if originals else None,
                name != "cat.jpg",
                width,
                height,
                outline(mask),
                {} if name == "cat.jpg" else values,
            )
        )
    return shown


def full_shown(*, originals: bool = False) -> Shown:
    return Shown(
        gallery(originals),
        image_values(),
        {"ladder": {"edited: its published file is missing": 1}},
        {"torch": "2.14.1", "numpy": "2.4.6"},
    )
