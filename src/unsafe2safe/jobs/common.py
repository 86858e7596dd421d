"""What every job does first and last: find its folder, its inputs, its tools."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.schema_common import Common
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import (
    RunFolder,
    RunSpec,
    dataset_key,
    fingerprint,
    newest_complete,
    read_run,
    result_keys,
)
from unsafe2safe.core.records import ExitStatus, OutcomeState, RunResult
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.source import ImageSource
from unsafe2safe.tracking.opening import open_tracker

log = logging.getLogger("unsafe2safe")

_TRACKED_IMAGES = 16


def plain(config: Common) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    content: dict[str, Any] = json.loads(config.model_dump_json())
    return content


def open_source(config: Common) -> ImageSource:
    source = build(config.dataset, "dataset", ImageSource)  # type: ignore[type-abstract]
    source.records()  # a missing or empty data set is told before anything is written
    return source


def run_spec(
    config: Common,
    script: str,
    choice: str,
    inputs: Mapping[str, Path | None] | None = None,
    ignored: tuple[str, ...] = (),
    content: Mapping[str, str] | None = None,
    dataset: Mapping[str, str] | None = None,
) -> RunSpec:
    """Identify the run: its folder and the keys that change its result.

    ``content`` are hashes of files that the configuration names or a component ships: what they
    say counts, not where they lie.

    ``inputs`` are run folders of earlier scripts; what counts of them is their own fingerprint,
    not their path. ``dataset`` stands for the data set of a run that reads none.
    """
    plain_config = plain(config)
    keys = result_keys(plain_config, (*ignored, *(inputs or {})))
    for name, folder in (inputs or {}).items():
        state = read_run(folder) if folder is not None else None
        keys[name] = state["fingerprint"] if state else None
    keys.update(content or {})
    described = dataset or plain_config["dataset"]
    key = dataset_key(described)
    name = f"{described['name']}-{choice}-{fingerprint(keys)}"
    output_dir = config.output_dir or config.paths.runs / script / name
    return RunSpec(script, output_dir, config.paths.private, keys, plain_config, key)


def find_input(
    config: Common,
    key: str,
    given: Path | None,
    script: str,
    how_to_make: str,
    also: tuple[str, ...] = (),
) -> Path:
    """The run folder named by ``given``, or the newest complete one of ``script``; printed.

    ``given`` may be a run of the scripts ``also``, too.

    Raises:
        UsageError: it is not there, not complete, or was written by another script.
    """
    if given is None:
        dataset = dataset_key(plain(config)["dataset"])
        found = newest_complete(config.paths.runs, script, dataset)
        if found is None:
            raise UsageError(
                f"{key} is not given and no complete run of {script}.py for "
                f"dataset={config.dataset['name']} lies in {config.paths.runs}; "
                f"run `{how_to_make}` first"
            )
        log.info("%s=%s (the newest complete run)", key, found)
        return found
    state = read_run(given)
    if state is None or state["script"] not in (script, *also):
        raise UsageError(f"{key}={given} is no run folder of {script}.py (no run.json of it)")
    if state["status"] != "complete":
        raise UsageError(f"{key}={given} is not complete; run its command again to finish it")
    return given


def track_counts(
    config: Common,
    folder: RunFolder,
    counts: Mapping[str, int],
    published: Iterable[tuple[OutcomeState, Path]] = (),
) -> None:
    """Tell the configured tracker what a run counted, and show some of what it published."""
    columns = sorted(counts)
    run_id = folder.state["fingerprint"]
    with open_tracker(config.logger, folder.path, plain(config), run_id, columns, 0) as tracker:
        tracker.log_metrics(0, {name: float(counts[name]) for name in columns})
        for index, (state, path) in enumerate(islice(published, _TRACKED_IMAGES)):
            image = decode_file(path, path.name, orientation="raster", max_pixels=10**9)
            tracker.log_image(f"published/{index:02d}", image.pixels, state)


def result_of(folder: RunFolder, failures: int, message: str, *written: Path) -> RunResult:
    """The result of a finished run folder."""
    status = ExitStatus.DONE_WITH_FAILURES if failures else ExitStatus.DONE
    return RunResult(status, folder.path, dict(folder.state["counts"]), written, message)
