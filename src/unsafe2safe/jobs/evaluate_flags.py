"""How good the privacy flags are: ``evaluate.py suite=flags``."""

from __future__ import annotations

from unsafe2safe.core.config.schema import Evaluate
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_text
from unsafe2safe.core.ledger import RunFolder, dataset_key, read_run
from unsafe2safe.core.records import RunResult, Triplet
from unsafe2safe.core.tables import read_parts
from unsafe2safe.data.truth import HasPrivacyTruth
from unsafe2safe.evaluation.flags import (
    confusion_csv,
    evaluate_flags,
    flags_csv,
    flags_headline,
)
from unsafe2safe.jobs.common import find_input, open_source, plain, result_of, run_spec
from unsafe2safe.tracking.opening import open_tracker

_UNUSED = (
    "utility",
    "runs",
    "originals",
    "edited",
    "metrics",
    "references",
    "blur_sigma",
    "mask_margin",
    "editor",
)


def run(config: Evaluate) -> RunResult:
    """Write metrics.json and tables of the flags of a run of generate_triplets.py."""
    source = open_source(config)
    name = str(config.dataset["name"])
    if not isinstance(source, HasPrivacyTruth):
        raise UsageError(
            f"dataset={name} does not say which of its images are private, so flags cannot be "
            "measured on it; dataset=vispr and dataset=samples do"
        )
    how = f"python generate_triplets.py dataset={name}"
    triplets = find_input(config, "triplets", config.triplets, "generate_triplets", how)
    made_of = str((read_run(triplets) or {}).get("dataset"))
    if made_of != dataset_key(plain(config)["dataset"]):
        raise UsageError(
            f"triplets={triplets} was made of the data set {made_of.rpartition('-')[0]!r} with "
            f"other settings than dataset={name} here; give the dataset=... that it was made with"
        )
    ignored = (*_UNUSED, "mask_categories")
    spec = run_spec(config, "evaluate", "flags", {"triplets": triplets}, ignored=ignored)
    with RunFolder.open(spec, config.existing) as folder:
        truths = {r.image_id: source.truth(r.image_id) for r in source.records()}
        found = evaluate_flags(
            name,
            truths,
            read_parts(triplets / "triplets", Triplet),
            samples=config.bootstrap,
            seed=config.seed,
        )
        tables = folder.path / "tables"
        write_text(tables / "flags.csv", flags_csv(found))
        write_text(tables / "confusion.csv", confusion_csv(found))
        found.write(folder.path / "metrics.json")
        folder.write_failures(())
        figures = {
            f"{row.name}/{figure}": result.value
            for row in found.rows
            for figure, result in row.figures.items()
            if result.value is not None
        }
        run_id = str(folder.state["fingerprint"])
        with open_tracker(
            config.logger, folder.path, plain(config), run_id, list(figures), keep_until=-1
        ) as tracker:
            tracker.log_metrics(0, figures)
        folder.finish(
            {
                "images": found.images,
                "unparsed": found.unparsed,
                "failed": found.failed,
                "undescribed": found.undescribed,
            }
        )
        message = f"{flags_headline(found)}\nfigures: {folder.path / 'metrics.json'}"
        return result_of(folder, 0, message, folder.path / "metrics.json", tables)
