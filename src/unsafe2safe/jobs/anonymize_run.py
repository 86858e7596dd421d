"""Editing, verifying and publishing a data set, whole or in shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from unsafe2safe.anonymize.annotations import write_annotations
from unsafe2safe.anonymize.given_masks import GIVEN_KEYS, GivenMasks
from unsafe2safe.anonymize.ladder import Ladder, build_ladder
from unsafe2safe.anonymize.lookup import TripletLookup
from unsafe2safe.anonymize.mask_making import default_categories
from unsafe2safe.anonymize.pair_filters import PairFilter
from unsafe2safe.anonymize.pairs import pairs_told
from unsafe2safe.anonymize.witnesses import Witnesses, build_witnesses
from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import KeyedHash
from unsafe2safe.core.ledger import RunFolder, RunSpec, purge, read_run
from unsafe2safe.core.records import ExitStatus, Outcome, RunResult, WorkUnit
from unsafe2safe.core.units import Shard, UnitCut, cut_units
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.text_memory import remembering_texts
from unsafe2safe.engines.local import run_units
from unsafe2safe.engines.overlap import BackgroundWriter
from unsafe2safe.jobs.anonymize_units import UnitWorker
from unsafe2safe.jobs.common import find_input, open_source, result_of, run_spec
from unsafe2safe.jobs.outcome_store import NAMES, OutcomeStore
from unsafe2safe.jobs.sharding import run_devices, shard_of, told_to_merge

_SCRIPT = "anonymize"
_DETECTING = "detect_regions"  # of detect_only: nobody takes such a run for one that publishes
_WAITING_FILES = 16  # encoded pictures that wait to be written, at most
SECONDS_PER_IMAGE = "seconds_per_image"  # in run.json


@dataclass(frozen=True, eq=False)
class Work:
    """What a run works with, whatever it does with it."""

    ladder: Ladder
    witnesses: Witnesses
    given: GivenMasks
    pair_filter: PairFilter
    source: ImageSource
    triplets: Path
    spec: RunSpec
    own_editor: bool  # not the configured one: other processes could not build it

    @property
    def editor(self) -> Editor:
        """The configured one, of the first attempt."""
        return self.ladder.steps[0].editor

    @property
    def image_ids(self) -> list[str]:
        return [record.image_id for record in self.source.records()]

    def units(self, config: Anonymize, shard: Shard | None) -> list[WorkUnit]:
        """The units of the whole, or those dealt to ``shard``."""
        units = cut_units(self.image_ids, config.engine.unit_size)
        return [unit for unit in units if shard is None or shard.has(unit.index)]


def work_of(config: Anonymize, editor: Editor | None = None) -> Work:
    """Find the data set, its triplets, the editors and the witnesses; no model is loaded.

    Raises:
        UsageError: one of them is not there.
    """
    built = editor or build({**config.editor, "adapter": config.adapter}, "editor", Editor)  # type: ignore[type-abstract]
    source = open_source(config)
    given = GivenMasks.open(config.masks, source)
    pair_filter = build(config.pairs.filter, "pairs.filter", PairFilter)  # type: ignore[type-abstract]
    ladder, witnesses = build_ladder(config, built), build_witnesses(config, source)
    ladder.tell_licences()
    triplets = find_input(
        config,
        "triplets",
        config.triplets,
        "generate_triplets",
        f"python generate_triplets.py dataset={config.dataset['name']}",
    )
    inputs = {"triplets": triplets, "adapter": config.adapter}
    content = {**built.weights_content(), **ladder.content, **witnesses.content}
    content |= {**pair_filter.weights_content(), **given.content()}
    # where an external command works changes no result
    of_detection = () if config.detect_only else ("contact_images",)
    ignored = ("audit", "editor.scratch", *GIVEN_KEYS, *of_detection)
    spec = run_spec(config, script_of(config), built.name, inputs, ignored, content)
    own = editor is not None
    return Work(ladder, witnesses, given, pair_filter, source, triplets, spec, own_editor=own)


def settled(config: Anonymize, editor: Editor | None = None) -> Anonymize:
    """``config`` with ``mask_categories`` filled in where they depend on the editor."""
    if config.mask_categories is not None:
        return config
    built = editor or build(config.editor, "editor", Editor)  # type: ignore[type-abstract]
    categories = default_categories(built.draws_faces)
    return config.model_copy(update={"mask_categories": categories})


def script_of(config: Anonymize) -> str:
    return _DETECTING if config.detect_only else _SCRIPT


def run(config: Anonymize, work: Work) -> RunResult:
    """Work off all units, or those of one shard, in this process."""
    shard = shard_of(config)
    cut = UnitCut.of(work.image_ids, config.engine.unit_size)
    with RunFolder.open(work.spec, config.existing, shard) as folder:
        folder.keep_to(cut)
        keyed = KeyedHash(config.paths.private)
        store = OutcomeStore(folder, cut, keyed)
        finished = store.finished()
        if shard is None and folder.complete and len(finished) == cut.units:
            return _result(folder, config, work)
        if shard is None:
            folder.reopen()
        if config.write_pairs:
            work.pair_filter.load()
        dealt = work.units(config, shard)
        label = _SCRIPT if shard is None else f"{_SCRIPT} {shard}"
        began = time.monotonic()
        with BackgroundWriter(_WAITING_FILES) as writer, remembering_texts():
            worker = UnitWorker(
                config,
                work.source,
                work.triplets,
                work.ladder,
                work.witnesses,
                work.given,
                work.pair_filter,
                store,
                keyed,
                writer,
            )
            run_units(dealt, lambda unit: unit.index in finished, worker.write, label)
        if shard is not None:
            message = told_to_merge(work.spec, shard)
            counts = {"units": len(dealt)}
            return RunResult(ExitStatus.DONE, folder.path, counts, (store.published,), message)
        images = sum(len(unit.image_ids) for unit in dealt if unit.index not in finished)
        pace = (time.monotonic() - began) / images if images else 0.0
        return _complete(config, work, folder, store, {SECONDS_PER_IMAGE: pace} if images else {})


def merge(config: Anonymize, work: Work) -> RunResult:
    """Complete a run that shards have written."""
    cut = cut_to_merge(work.spec)
    with RunFolder.open(work.spec, "resume") as folder:
        folder.keep_to(UnitCut.of(work.image_ids, config.engine.unit_size))
        store = OutcomeStore(folder, cut, KeyedHash(config.paths.private))
        return _complete(config, work, folder, store, {})


def cut_to_merge(spec: RunSpec) -> UnitCut:
    """The units of a begun run.

    Raises:
        UsageError: no run was begun there.
    """
    state = read_run(spec.output_dir)
    if state is None or not state.get("units"):
        raise UsageError(f"output_dir={spec.output_dir} holds nothing to merge")
    return UnitCut(**state["units"])


def run_on_devices(config: Anonymize, work: Work, merge_all: Callable[[], RunResult]) -> RunResult:
    """A process for each of ``engine.devices``, all on the same triplets; then ``merge_all``."""
    if work.own_editor:
        raise UsageError("engine.devices: an editor that the caller made works in this process")
    own = config.model_copy(update={"triplets": work.triplets, "output_dir": work.spec.output_dir})
    return run_devices(_SCRIPT, own, own.engine, work.spec, merge_all)


def purge_share(config: Anonymize, editor: Editor | None = None) -> RunResult:
    """Delete what the run keeps under ``paths.private``: quarantine, names, contact images."""
    output_dir = config.output_dir or work_of(config, editor).spec.output_dir
    deleted, files = purge(script_of(config), output_dir, config.paths.private)
    told = f"deleted {deleted} ({files} files)" if files else f"nothing to delete at {deleted}"
    return RunResult(ExitStatus.DONE, output_dir, {"files": files}, message=told)


def _complete(
    config: Anonymize,
    work: Work,
    folder: RunFolder,
    store: OutcomeStore,
    pace: dict[str, float],
) -> RunResult:
    facts = {"inputs": {"triplets": str(work.triplets)}, **pace}

    def annotate(published: Iterable[Outcome]) -> Iterable[Path]:
        lookup = TripletLookup(work.triplets)
        return write_annotations(folder.path, work.source, published, lookup, config.publish)

    store.complete(config, work.source.records(), facts, annotate)
    return _result(folder, config, work)


def _result(folder: RunFolder, config: Anonymize, work: Work) -> RunResult:
    counts, published = folder.state["counts"], folder.path / "published"
    held_back = counts["needs_review"] + counts["failed"]
    message = (
        f"{counts['images']} images: {counts['safe']} safe and {counts['anonymized']} anonymized "
        f"published, {counts['needs_review']} held back for review, {counts['failed']} failed\n"
        f"published: {published}\n"
        f"each image's fate: {folder.path / 'manifest.parquet'}\n"
        f"audit root: {folder.state['audit_root']}"
    )
    if pairs := folder.state.get("pairs"):
        message += f"\npairs: {pairs_told(pairs, work.pair_filter.complaint)}"
    if held_back:
        names = work.spec.private_root / str(folder.state["private"]) / NAMES
        message += f"\nwhat was held back and why: {folder.path / 'failures.jsonl'}"
        message += f"\nby name, private: {names}"
    seconds = folder.state.get(SECONDS_PER_IMAGE)
    if seconds and config.dataset.get("limit"):
        message += f"\n{estimate(config, float(seconds))}"
    return result_of(folder, held_back, message, published, folder.path / "manifest.parquet")


def estimate(config: Anonymize, seconds_per_image: float) -> str:
    """How long the whole data set takes at a pace, whatever ``dataset.limit``."""
    source = build({**config.dataset, "limit": None}, "dataset", ImageSource)  # type: ignore[type-abstract]
    images = len(source.records())
    return (
        f"the whole data set has {images} images: about {duration(images * seconds_per_image)} in "
        f"one process at {seconds_per_image:.3g} s per image"
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
