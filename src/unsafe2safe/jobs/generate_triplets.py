"""Stage 1 over a data set: ``generate_triplets.py``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema import GenerateTriplets
from unsafe2safe.core.errors import UnreadableImage, UsageError, describe_fault
from unsafe2safe.core.ledger import RunFolder, RunSpec, purge, read_run
from unsafe2safe.core.records import ExitStatus, ImageRecord, RunResult, WorkUnit
from unsafe2safe.core.units import Shard, UnitCut, cut_units
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.data.source import ImageSource
from unsafe2safe.engines.local import run_units
from unsafe2safe.jobs import export_triplets, import_triplets
from unsafe2safe.jobs.common import open_source, result_of, run_spec
from unsafe2safe.jobs.sharding import run_devices, shard_of, told_to_merge
from unsafe2safe.jobs.triplet_store import TripletStore
from unsafe2safe.stage1.base import Described, Stage1, failed
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")

_SCRIPT = "generate_triplets"


def run(config: GenerateTriplets) -> RunResult:
    """Write triplets and regions of the data set to the run folder, private records apart; or do
    with such a folder what ``config.mode`` says."""
    match config.mode:
        case "import":
            return import_triplets.run(config, config.table)
        case "export":
            return export_triplets.run(config)
    stage1 = build(config.stage1, "stage1", Stage1)  # type: ignore[type-abstract]
    ignored = ("table", "stage1.criteria")  # of the criteria their content counts
    spec = run_spec(config, _SCRIPT, stage1.name, ignored=ignored, content=stage1.content())
    match config.mode:
        case "purge":
            return _purge(config, spec)
        case "merge":
            return _merge(config, spec)
        case _ if config.engine.devices > 1:
            return run_devices(_SCRIPT, config, config.engine, spec, lambda: _merge(config, spec))
        case _:
            return _run(config, spec, stage1)


def _run(config: GenerateTriplets, spec: RunSpec, stage1: Stage1) -> RunResult:
    """Work off all units, or those of one shard, in this process."""
    source = open_source(config)
    shard = shard_of(config)
    records = source.records()
    image_ids = [record.image_id for record in records]
    units = cut_units(image_ids, config.engine.unit_size)
    with RunFolder.open(spec, config.existing, shard) as folder:
        cut = UnitCut.of(image_ids, config.engine.unit_size)
        folder.keep_to(cut)
        store = TripletStore(folder, cut)
        finished = store.finished()
        if shard is None and folder.complete and len(finished) == cut.units:
            return _result(folder)  # a shard reports on its own units, never on the whole run
        dealt = [unit for unit in units if shard is None or shard.has(unit.index)]
        describer = _Describer(source, records, stage1, config)

        def work(unit: WorkUnit, advance: Callable[[], None]) -> None:
            store.write(unit, describer.describe(unit, advance))

        label = _SCRIPT if shard is None else f"{_SCRIPT} {shard}"
        run_units(dealt, lambda unit: unit.index in finished, work, label)
        if shard is not None:
            return _shard_result(folder, shard, len(dealt))
        store.complete(config)
        return _result(folder)


def _merge(config: GenerateTriplets, spec: RunSpec) -> RunResult:
    """Complete a run that shards have written."""
    state = read_run(spec.output_dir)
    if state is None or not state.get("units"):
        raise UsageError(f"output_dir={spec.output_dir} holds no triplets to merge")
    with RunFolder.open(spec, "resume") as folder:
        TripletStore(folder, UnitCut(**state["units"])).complete(config)
        return _result(folder)


def _purge(config: GenerateTriplets, spec: RunSpec) -> RunResult:
    if config.table.file is not None and config.output_dir is None:
        raise UsageError("mode=purge of an imported run needs its output_dir=...")
    deleted, files = purge(_SCRIPT, spec.output_dir, spec.private_root)
    told = f"deleted {deleted} ({files} files)" if files else f"nothing to delete at {deleted}"
    return RunResult(ExitStatus.DONE, spec.output_dir, {"files": files}, message=told)


class _Describer:
    """Decodes the images of a unit and hands them to Stage 1, a batch at a time."""

    def __init__(
        self,
        source: ImageSource,
        records: Sequence[ImageRecord],
        stage1: Stage1,
        config: GenerateTriplets,
    ) -> None:
        self.source, self.records, self.stage1 = source, records, stage1
        self.seed, self.unit_size = config.seed, config.engine.unit_size
        self.perception = Perception(config.vision, config.engine.threads)

    def describe(self, unit: WorkUnit, advance: Callable[[], None]) -> list[Described]:
        """What Stage 1 says of each image of the unit, in order."""
        first = unit.index * self.unit_size
        records = self.records[first : first + len(unit.image_ids)]
        described: list[Described] = []
        together = self.stage1.images_together
        for start in range(0, len(records), together):
            batch = records[start : start + together]
            described.extend(self._describe(batch))
            for _ in batch:
                advance()
        return described

    def _describe(self, records: Sequence[ImageRecord]) -> list[Described]:
        by_id: dict[str, Described] = {}
        readable: list[tuple[ImageRecord, DecodedImage]] = []
        for record in records:
            try:
                readable.append((record, self.source.decode(record)))
            except UnreadableImage as error:
                by_id[record.image_id] = self._failed(record.image_id, error.reason)
        try:
            results = self.stage1.describe(readable, self.perception, self.seed)
        except UsageError:  # a model or a server that is not there fails every image
            raise
        except Exception:  # one bad image must not take its batch with it
            log.warning("a batch of %d images failed; trying them one by one", len(readable))
            results = [self._describe_one(record, image) for record, image in readable]
        by_id.update((item.triplet.image_id, item) for item in results)
        return [by_id[record.image_id] for record in records]

    def _describe_one(self, record: ImageRecord, image: DecodedImage) -> Described:
        try:
            return self.stage1.describe([(record, image)], self.perception, self.seed)[0]
        except UsageError:
            raise
        except Exception as error:
            return self._failed(record.image_id, f"stage 1 raised {describe_fault(error)}")

    def _failed(self, image_id: str, reason: str) -> Described:
        log.warning("%s: %s", image_id, reason)
        return failed(image_id, reason, self.stage1.name, self.seed)


def _shard_result(folder: RunFolder, shard: Shard, units: int) -> RunResult:
    return RunResult(
        ExitStatus.DONE,
        folder.path,
        {"units": units},
        (folder.path / "triplets", folder.path / "regions"),
        told_to_merge(folder.spec, shard),
    )


def _result(folder: RunFolder) -> RunResult:
    counts = folder.state["counts"]
    bad = counts["failed"] + counts["needs_review"]
    message = (
        f"{counts['images']} images: {counts['safe']} safe, {counts['unsafe']} unsafe, "
        f"{counts['needs_review']} to review, {counts['failed']} failed\n"
        f"triplets and regions: {folder.path}\n"
        f"private captions and findings: {folder.private}"
    )
    if bad:
        message += f"\nwhat failed and why: {folder.path / 'failures.jsonl'}"
    return result_of(folder, bad, message, folder.path / "triplets", folder.path / "regions")
