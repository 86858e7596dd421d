"""Training pairs from verified edits, and credit for what is published."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.pair_filters import EditedPair, PairFilter
from unsafe2safe.anonymize.publish import to_png
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import inside, write_bytes
from unsafe2safe.core.records import Check, ImageRecord, Outcome, OutcomeState, Pair
from unsafe2safe.core.tables import read_table
from unsafe2safe.data.decode import decode_file
from unsafe2safe.editors.base import Pixels
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

REDACTION = "redact"  # what the redacting editor calls itself
_NOTE = "pairs_by_reason"  # in the metadata of each part
_MASKS = "pairs/masks"


class PairReason(StrEnum):
    """What became of an image as a training pair; the order is that of the checks."""

    WRITTEN = "written"
    NOT_PUBLISHED = "not_published"  # needs review, or failed
    SAFE = "safe"  # published as it was: nothing to learn from
    NOT_EDITED = "not_edited"  # only its metadata was stripped
    REDACTED = "redacted"  # at the end of a ladder: an editor would learn to blur
    UNCHANGED = "unchanged_region"  # a sensitive region is as it was
    UNFAITHFUL = "unfaithful_outside"
    FILTER = "below_filter"
    FILTER_FAILED = "filter_failed"


# How the closing message tells the pairs that were left out; the filter has words of its own.
_TOLD = {
    PairReason.NOT_PUBLISHED: "not published",
    PairReason.SAFE: "safe",
    PairReason.NOT_EDITED: "with nothing edited",
    PairReason.REDACTED: "redacted in the end",
    PairReason.UNCHANGED: "with an unchanged region",
    PairReason.UNFAITHFUL: "unfaithful outside",
    PairReason.FILTER_FAILED: "that the filter could not measure",
}


class PairWriter:
    """Makes the pairs of a run, with the masks where they are asked for. ``settle`` returns once
    all that was published lies on the disk."""

    def __init__(
        self,
        run: Path,
        config: Anonymize,
        pair_filter: PairFilter,
        perception: Perception,
        redacts: bool,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """``run`` is the run folder; ``redacts``: the run's own editor redacts, and pairs of
        redacted images are what is wanted."""
        self.run, self.config, self.perception, self.redacts = run, config, perception, redacts
        self.filter, self.settle = pair_filter, settle

    def unit(self) -> UnitPairs:
        """The pairs of one unit, yet to be added."""
        return UnitPairs(self)


def finish_pairs(run: Path) -> dict[str, int]:
    """How many images of all units became pairs and how many did not, by reason; masks that an
    interrupted unit left behind are removed. Empty where no pairs are written."""
    parts = sorted((run / "pairs").glob("part-*.parquet"))
    if not parts:
        return {}
    counts: Counter[str] = Counter(dict.fromkeys(map(str, PairReason), 0))
    named: set[str] = set()
    for part in parts:
        table = read_table(part, Pair)
        counts.update(json.loads((table.schema.metadata or {}).get(_NOTE.encode(), b"{}")))
        if "mask" in table.column_names:  # parts of an earlier version have none
            named.update(filter(None, table["mask"].to_pylist()))
    for mask in (run / _MASKS).rglob("*.png"):
        if mask.relative_to(run).as_posix() not in named:
            mask.unlink()
    return dict(counts)


class UnitPairs:
    """Pairs of one unit, added batch by batch, with the counts by reason."""

    def __init__(self, writer: PairWriter) -> None:
        self._writer = writer
        self.pairs: list[Pair] = []
        self._reasons: Counter[str] = Counter()

    @property
    def notes(self) -> dict[str, str]:
        """What the unit's table is to hold beside the pairs."""
        return {_NOTE: json.dumps(self._reasons, sort_keys=True)}

    def add(self, outcomes: Sequence[Outcome], candidates: Mapping[str, Candidate]) -> None:
        """Judge a batch whose edits are published; images without a candidate count as well."""
        writer = self._writer
        eligible: list[tuple[Candidate, Outcome]] = []
        for outcome in outcomes:
            reason = _why_not(outcome, candidates, writer)
            if reason is None:
                eligible.append((candidates[outcome.image_id], outcome))
            else:
                self._reasons[reason] += 1
        for (candidate, outcome), check in zip(eligible, self._checked(eligible), strict=True):
            if isinstance(check, PairReason):
                self._reasons[check] += 1
            elif check is not None and not check.passed:
                self._reasons[PairReason.FILTER] += 1
            else:
                self._reasons[PairReason.WRITTEN] += 1
                self.pairs.append(self._pair(candidate, outcome, check))

    def _checked(
        self, eligible: Sequence[tuple[Candidate, Outcome]]
    ) -> list[Check | PairReason | None]:
        """The filter's verdict on each; one that it cannot measure takes no other along."""
        if not eligible:
            return []
        pairs = [
            EditedPair(candidate.image.pixels, partial(self._published, outcome), candidate.triplet)
            for candidate, outcome in eligible
        ]
        try:
            return list(self._writer.filter.check(pairs, self._writer.perception))
        except UsageError:
            raise
        except Exception as error:
            if len(eligible) > 1:
                return [self._checked([one])[0] for one in eligible]
            log.warning(
                "%s: the pair filter raised %s", eligible[0][1].image_id, type(error).__name__
            )
            return [PairReason.FILTER_FAILED]

    def _published(self, outcome: Outcome) -> Pixels:
        """What training will read."""
        self._writer.settle()
        path = inside(self._writer.run / "published", str(outcome.published_as))
        return decode_file(path, outcome.image_id, orientation="raster", max_pixels=2**62).pixels

    def _pair(self, candidate: Candidate, outcome: Outcome, check: Check | None) -> Pair:
        config = self._writer.config
        value = _checks(outcome)["outside_ssim"].value
        outside = Check("outside_ssim", value, config.min_pair_outside_ssim, passed=True)
        return Pair(
            image_id=candidate.image_id,
            source=candidate.image_id,
            target=f"published/{outcome.published_as}",
            public_caption=candidate.triplet.public_caption,
            edit_instruction=candidate.triplet.edit_instruction,
            regions=tuple(candidate.sensitive_regions),
            scores=(outside, check) if check else (outside,),
            combined_caption=candidate.triplet.combined_caption,
            mask=self._mask(candidate, outcome) if config.pairs.masks else None,
        )

    def _mask(self, candidate: Candidate, outcome: Outcome) -> str:
        """Write what was masked when the edit passed; its path from the run folder.

        It is called as the published file is, since an image's own name may be private.
        """
        name = f"{_MASKS}/{outcome.published_as}.png"
        config, margin = self._writer.config, outcome.attempts[-1].margin
        mask = candidate.mask(config, config.margin if margin is None else margin)
        grey = np.ceil(mask * 255).astype(np.uint8)  # not 0 wherever anything was edited
        write_bytes(inside(self._writer.run, name), to_png(grey))
        return name


def _why_not(
    outcome: Outcome, candidates: Mapping[str, Candidate], writer: PairWriter
) -> PairReason | None:
    """Why an image makes no pair, whatever a filter says of it; None: it may make one."""
    candidate = candidates.get(outcome.image_id)
    if candidate is None or not outcome.state.publishable:
        return PairReason.NOT_PUBLISHED
    if outcome.state != OutcomeState.ANONYMIZED:
        return PairReason.SAFE
    if not candidate.sensitive_regions or candidate.only_metadata:
        return PairReason.NOT_EDITED
    if outcome.editor == REDACTION and not writer.redacts:
        return PairReason.REDACTED
    checks = _checks(outcome)
    unchanged = checks.get("unchanged_regions")
    if unchanged is not None and unchanged.value > 0:
        return PairReason.UNCHANGED
    outside = checks.get("outside_ssim")
    if outside is None or outside.value < writer.config.min_pair_outside_ssim:
        return PairReason.UNFAITHFUL  # nothing outside the masks cannot be faithful either
    return None


def _checks(outcome: Outcome) -> dict[str, Check]:
    """The checks of the attempt that was published, by name."""
    return {check.name: check for check in outcome.attempts[-1].checks}


def pairs_told(counts: Mapping[str, int], complaint: str) -> str:
    """``counts`` by reason in words, such as "812 written; 40 below the similarity ratio"."""
    words = {**_TOLD, PairReason.FILTER: complaint}
    order = (PairReason.FILTER, PairReason.UNFAITHFUL, PairReason.UNCHANGED, *PairReason)
    left_out = dict.fromkeys(reason for reason in order if reason != PairReason.WRITTEN)
    told = [f"{counts[reason]} {words[reason]}" for reason in left_out if counts.get(reason)]
    written = f"{counts.get(PairReason.WRITTEN, 0)} written"
    return f"{written}; {', '.join(told)}" if told else written


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
