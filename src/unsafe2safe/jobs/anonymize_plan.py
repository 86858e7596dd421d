"""``anonymize.py mode=plan``: what a run would do, counted and estimated; nothing is written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from unsafe2safe.anonymize.lookup import TripletLookup
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import ExitStatus, PrivacyFlag, RunResult, TripletState
from unsafe2safe.jobs.anonymize_run import SECONDS_PER_IMAGE, Work, estimate, script_of
from unsafe2safe.jobs.sharding import shard_of


def plan(config: Anonymize, work: Work) -> RunResult:
    """Counts by what would become of the images at first, and the time from the newest run with
    the same editor on the same data set."""
    shard = shard_of(config)
    units = work.units(config, shard)
    done = _finished(work.spec.output_dir, config)
    left = [unit for unit in units if unit.name not in done]
    lookup = TripletLookup(work.triplets)
    counts: Counter[str] = Counter(images=0, safe=0, to_edit=0, not_described=0)
    for unit in left:
        counts["images"] += len(unit.image_ids)
        found = lookup.find(unit.image_ids)
        for image_id in unit.image_ids:
            counts[_kind(found.get(image_id))] += 1
    whole = "" if shard is None else f" of shard {shard}"
    lines = [
        f"{len(left)} of {len(units)} units{whole} to do, {counts['images']} images",
        f"looked at again, and published as they are where nothing is found: {counts['safe']}",
        f"edited, up to {config.verify.max_attempts} times each: {counts['to_edit']}",
        f"held back, since Stage 1 has not described them: {counts['not_described']}",
        f"output_dir={work.spec.output_dir}",
        f"editor={work.editor.name}, engine.devices={config.engine.devices}",
    ]
    pace = _pace(config, work)
    if pace is None:
        lines.append("no run to estimate from; do one with dataset.limit=100 first")
    else:
        lines.append(estimate(config, pace))
    return RunResult(ExitStatus.DONE, work.spec.output_dir, dict(counts), message="\n".join(lines))


def _kind(described: tuple[Any, ...] | None) -> str:
    if described is None or described[0].state != TripletState.COMPLETE:
        return "not_described"
    triplet, regions = described
    return "safe" if triplet.privacy_flag == PrivacyFlag.SAFE and not regions else "to_edit"


def _finished(output_dir: Path, config: Anonymize) -> set[str]:
    """Names of the units that a begun run has done."""
    parts = output_dir / ("regions" if config.detect_only else "audit")
    return {path.stem for path in parts.glob("part-*.parquet")}


def _pace(config: Anonymize, work: Work) -> float | None:
    """Seconds per image of the newest complete run on this data set with this editor."""
    editor = json.loads(config.model_dump_json())["editor"]
    found = []
    for path in (config.paths.runs / script_of(config)).glob("*/run.json"):
        state = read_run(path.parent) or {}
        if (
            state.get("status") == "complete"
            and state.get("dataset") == work.spec.dataset_key
            and state.get("config", {}).get("editor") == editor
            and state.get(SECONDS_PER_IMAGE)
        ):
            found.append((str(state["finished"]), float(state[SECONDS_PER_IMAGE])))
    return max(found)[1] if found else None
