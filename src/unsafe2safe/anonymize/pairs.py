"""Training pairs from verified edits, and credit for what is published."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.core.records import Check, ImageRecord, Outcome, OutcomeState, Pair


def pair_of(candidate: Candidate, outcome: Outcome, min_outside_ssim: float) -> Pair | None:
    """The training pair of an anonymized image that is faithful enough outside its masks."""
    if outcome.state != OutcomeState.ANONYMIZED or not candidate.regions:
        return None
    checks = {check.name: check for check in outcome.attempts[-1].checks}
    outside = checks.get("outside_ssim")
    if outside is None or outside.value < min_outside_ssim:
        return None
    return Pair(
        image_id=candidate.image_id,
        source=candidate.image_id,
        target=f"published/{outcome.published_as}",
        public_caption=candidate.triplet.public_caption,
        edit_instruction=candidate.triplet.edit_instruction,
        regions=tuple(candidate.regions),
        scores=(Check("outside_ssim", outside.value, min_outside_ssim, passed=True),),
        combined_caption=candidate.triplet.combined_caption,
    )


def attribution(outcomes: Iterable[Outcome], records: Mapping[str, ImageRecord]) -> str:
    """CSV of licence and credit of every published image that has them.

    A credit in which the original's name stands (COCO's own addresses) is left out where that name
    is not published.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["published_as", "licence", "credit", "changed"])
    for outcome in outcomes:
        record = records[outcome.image_id]
        if outcome.published_as is None or not (record.licence or record.credit):
            continue
        changed = "yes" if outcome.state == OutcomeState.ANONYMIZED else "no"
        stem, credit = PurePosixPath(outcome.image_id).stem, record.credit or ""
        if stem in credit and stem not in outcome.published_as:
            credit = ""
        writer.writerow([outcome.published_as, record.licence or "", credit, changed])
    return buffer.getvalue()
