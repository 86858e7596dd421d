"""``anonymize.py mode=audit``: verify what was published. Loads no model and imports no torch."""

from __future__ import annotations

from unsafe2safe.anonymize.audit import audit, report_json
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_text
from unsafe2safe.core.ledger import dataset_key, newest_complete
from unsafe2safe.core.records import ExitStatus, RunResult


def run(config: Anonymize) -> RunResult:
    """Audit ``output_dir``, or the newest complete run for the data set."""
    folder = config.output_dir
    if folder is None:
        dataset = config.model_dump(mode="json")["dataset"]
        folder = newest_complete(config.paths.runs, "anonymize", dataset_key(dataset))
    if folder is None:
        raise UsageError("mode=audit needs the run folder to audit: output_dir=DIR")
    if not folder.is_dir():
        raise UsageError(f"output_dir={folder} does not exist")
    target = config.audit.report
    if target is not None and target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"audit.report={target} would add a file to the folder that is audited")
    report = audit(folder, config.audit.root)
    if target is not None:
        write_text(target, report_json(report))
    counts = {"images": report.images, "published": report.published, "faults": len(report.faults)}
    told = f"{report.images} images, {report.published} published, root {report.root or 'unknown'}"
    if report.passed:
        message = f"audit of {folder}: all as it was published ({told})"
        return RunResult(ExitStatus.DONE, folder, counts, message=message)
    lines = "\n".join(str(fault) for fault in report.faults)
    message = f"audit of {folder}: {len(report.faults)} faults ({told})\n{lines}"
    return RunResult(ExitStatus.DONE_WITH_FAILURES, folder, counts, message=message)
