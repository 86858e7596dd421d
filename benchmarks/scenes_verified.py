"""What the verification loop does for an editor, on scenes whose truth is known.

    python benchmarks/scenes_verified.py [SCENES] [SEED] [FOLDER]   # 128, 1, a temporary folder

The seed is of the scenes: 0 is what editor and reader were trained on, 1 what the ladder was chosen
on.

Scenes with their oracle's triplets go through ``anonymize.py editor=tiny``, with a mask folder of
what is to change: each private layer as it is and as the counterpart draws it (the outline of the
source's alone would tell a hair style). Beside what it publishes stand the first edits of the same
editor of the same scenes, pasted in through the same masks and looked at by nobody. Leakage is the
share of the private values that were to change and are still read as in the source, by two readers:

- ``reader``: the attribute reader. The loop verifies with it, so of what is published it reads
  almost nothing by construction.
- ``match``: for each value the drawn scene that looks most like the edit, all else as the
  counterpart has it. The loop knows nothing of it. A garbled letter is most like the old one now
  and then; ``match, others`` says how often it is like any one value that is neither the old nor
  the new, which is what that would be if nothing of the source were left.

Exits 1 where fewer than 90 % are published, where leakage is more than half of that without the
loop, by either reader, or where the SSIM outside the private layers is under 0.97.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from unsafe2safe import api
from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.given_masks import GivenMasks
from unsafe2safe.anonymize.ladder import build_ladder
from unsafe2safe.anonymize.lookup import TripletLookup
from unsafe2safe.anonymize.region_editing import composite
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.pseudonyms import restore, true_names
from unsafe2safe.core.records import Outcome
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.synthetic import Redrawn, Scene, private_mask, render
from unsafe2safe.data.synthetic.attributes import LETTERS
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.editors.base import Editor, Pixels
from unsafe2safe.metrics.truth import all_scores, bystander_scores
from unsafe2safe.vision.attribute_reader import PERSON_VALUES, the_reader
from unsafe2safe.vision.perception import Perception

PUBLISHED, LEAKED, OUTSIDE = 0.90, 0.5, 0.97  # at least, at most of that without, at least
SETTINGS = (
    "editor=tiny",
    "verify.truth=only",
    "margin=0.0",  # the masks hold all that is private
    "masks.feather=0.0",
    # Edits alone, no redaction. More guidance first, since it leaves less of the source; whom that
    # does not help gets other noise at the usual guidance again.
    "verify.ladder=[guidance,guidance,seed,seed,seed,seed,{editor:tiny,seed:true},seed,seed,seed]",
    "verify.max_attempts=11",
    "write_pairs=false",
)


def main(scenes: int, root: Path, seed: int = 1) -> int:
    shared = (
        "dataset=synthetic",
        f"dataset.seed={seed}",
        f"dataset.size={scenes}",
        f"paths.runs={root / 'runs'}",
        f"paths.private={root / 'private'}",
    )
    source = SyntheticSource(name="synthetic", size=scenes, seed=seed)
    ids = [record.image_id for record in source.records()]
    masks = write_masks(source, ids, root / "masks")
    settings = (*SETTINGS, f"masks.folder={masks}")
    triplets = api.generate_triplets(*shared, "stage1=oracle").output_dir
    result = api.anonymize(*shared, f"triplets={triplets}", *settings)
    assert triplets is not None
    assert result.output_dir is not None
    names = true_names(root / "private", ids)  # who is held back goes by a keyed hash
    written = read_records(result.output_dir / "manifest.parquet", Outcome)
    rows = {row.image_id: row for row in (restore(outcome, names) for outcome in written)}
    known = {image_id: source.edit_of(image_id, 0).redrawn for image_id in rows}
    published = {
        image_id: np.asarray(Image.open(result.output_dir / "published" / row.published_as))
        for image_id, row in rows.items()
        if row.published_as is not None
    }
    bare = unverified(source, triplets, [*shared, *settings])
    outside = [
        check.value
        for row in rows.values()
        if row.published_as
        for check in row.attempts[-1].checks
        if check.name == "outside_ssim"
    ]
    with_loop, without = figures(known, published), figures(known, bare)
    share = len(published) / scenes
    print(f"{'':26}{'with the loop':>16}{'without':>16}")
    print(f"{'published':26}{share:>16.3f}{1.0:>16.3f}")
    for name in with_loop:
        print(f"{name:26}{with_loop[name]:>16.4f}{without[name]:>16.4f}")
    print(f"{'outside the masks':26}{float(np.mean(outside)):>16.4f}")
    rungs = [row.attempts[-1].rung for row in rows.values() if row.published_as]
    counts = {rung: rungs.count(rung) for rung in dict.fromkeys(rungs)}
    print(f"published on the rung: {counts}")
    attempts = sum(len(row.attempts) for row in rows.values()) / scenes
    print(f"attempts a scene: {attempts:.2f}; held back: {held_back(rows.values())}")
    met = (
        share >= PUBLISHED
        and all(with_loop[n] <= LEAKED * without[n] for n in ("leaked/reader", "leaked/match"))
        and with_loop["outside/ssim"] >= OUTSIDE
    )
    print("met" if met else "MISSED")
    return 0 if met else 1


def write_masks(source: SyntheticSource, image_ids: Sequence[str], folder: Path) -> Path:
    """A mask file for each scene: the private layers of it and of its counterpart."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        redrawn = source.edit_of(image_id, 0).redrawn
        inside = private_mask(redrawn.source, source.side)
        inside |= private_mask(redrawn.scene, source.side)
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / image_id)
    return folder


def held_back(rows: Sequence[Outcome]) -> dict[str, int]:
    reasons = [row.reason for row in rows if row.published_as is None]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def unverified(
    source: SyntheticSource, triplets: Path, overrides: Sequence[str]
) -> dict[str, Pixels]:
    """The first edits as the loop would make them, none of them looked at."""
    config = load("anonymize", list(overrides))
    step = build_ladder(config, build(config.editor, "editor", Editor)).steps[0]
    perception = Perception(config.vision, 0)
    records = source.records()
    given = GivenMasks.open(config.masks, source)
    lookup = TripletLookup(triplets)
    edits: dict[str, Pixels] = {}
    for start in range(0, len(records), config.batch_size):
        batch = records[start : start + config.batch_size]
        found = lookup.find([record.image_id for record in batch])
        requests = []
        for record in batch:
            triplet, regions = found[record.image_id]
            image = source.decode(record)
            own = given.of(record.image_id, *image.pixels.shape[:2])
            known = [*regions, *own.regions]
            candidate = Candidate(record, image, triplet, known, perception, "", own)
            requests.append(candidate.request(config, step))
        for record, request, edited in zip(
            batch, requests, step.editor.edit(requests), strict=True
        ):
            edits[record.image_id] = composite(request.image, edited, request.mask)
    return edits


def figures(known: Mapping[str, Redrawn], edits: Mapping[str, Pixels]) -> dict[str, float]:
    """Leakage by both readers and SSIM outside, over ``edits``."""
    read: list[float] = []
    matched: list[float] = []
    others: list[float] = []
    outside: list[float] = []
    for image_id, edited in edits.items():
        redrawn = known[image_id]
        reading = the_reader().read(edited[None], [redrawn.source])[0]
        scores = all_scores(redrawn, reading)
        read += [v for name, values in scores.items() if name.startswith("leaked/") for v in values]
        for match in matches(redrawn, edited):
            matched.append(float(match.found == match.was))
            if match.others:
                wrong = match.found not in (match.was, match.wanted)
                others.append(float(wrong) / match.others)
        outside += bystander_scores(redrawn, edited).get("outside/ssim", [])
    return {
        "leaked/reader": float(np.mean(read)),
        "leaked/match": float(np.mean(matched)),
        "match, others": float(np.mean(others)),
        "outside/ssim": float(np.mean(outside)),
    }


@dataclass(frozen=True)
class Match:
    """The value with which the drawn scene is most like an edit, the old and the new one, and how
    many there are beside these two."""

    found: object
    was: object
    wanted: object
    others: int


def matches(redrawn: Redrawn, edited: Pixels) -> Iterator[Match]:
    """A match for each value that was to change."""
    side = edited.shape[0]
    where = private_mask(redrawn.source, side) | private_mask(redrawn.scene, side)
    target = edited.astype(np.float32)

    def nearest(variants: Mapping[object, Scene]) -> object:
        errors = {
            value: float(np.square(render(scene, side)[where] - target[where]).sum())
            for value, scene in variants.items()
        }
        return min(errors, key=lambda value: errors[value])

    new, old = redrawn.scene.private, redrawn.source.private
    for index, (before, after) in enumerate(zip(old.persons, new.persons, strict=True)):
        for name, values in PERSON_VALUES.items():
            was, wanted = getattr(before, name), getattr(after, name)
            hidden = name == "hair_style" and not (before.style_shows and after.style_shows)
            if was == wanted or hidden:
                continue
            variants = {}
            for value in values:
                persons = list(new.persons)
                persons[index] = replace(after, **{name: value})
                private = replace(new, persons=tuple(persons))
                variants[value] = replace(redrawn.scene, private=private)
            yield Match(nearest(variants), was, wanted, len(variants) - 2)
    for board in ("sign", "plate"):
        was, wanted = getattr(old, board), getattr(new, board)
        if not was or was == wanted:
            continue
        shown = wanted or was  # a board that is to be blank: is any old letter there?
        for place, letter in enumerate(was):
            if wanted and wanted[place] == letter:
                continue
            texts = {x: shown[:place] + x + shown[place + 1 :] for x in LETTERS}
            variants = {
                x: replace(redrawn.scene, private=replace(new, **{board: text}))
                for x, text in texts.items()
            }
            if not wanted:
                variants[""] = redrawn.scene
            new_letter = wanted[place] if wanted else ""
            yield Match(nearest(variants), letter, new_letter, len(variants) - 2)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    world_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    if len(sys.argv) > 3:
        sys.exit(main(count, Path(sys.argv[3]), world_seed))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(count, Path(folder), world_seed))
