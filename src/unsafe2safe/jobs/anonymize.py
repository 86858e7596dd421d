"""Stage 2 over a data set: ``anonymize.py``.

What each mode does lies beside: :mod:`anonymize_run` edits and publishes, :mod:`detect_regions`
only looks, :mod:`anonymize_plan` only counts, :mod:`audit` verifies what was published, without
loading a model, so that it starts at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.records import RunResult

if TYPE_CHECKING:
    from unsafe2safe.editors.base import Editor


def run(config: Anonymize, editor: Editor | None = None) -> RunResult:
    """Publish what passes verification and hold back the rest, or do what ``config.mode`` says.
    ``editor`` replaces the configured one for callers of the Python API that bring their own."""
    if config.mode == "audit":
        from unsafe2safe.jobs import audit

        return audit.run(config)
    from unsafe2safe.jobs import anonymize_plan, anonymize_run, detect_regions

    config = anonymize_run.settled(config, editor)
    if config.mode == "purge":
        return anonymize_run.purge_share(config, editor)
    work = anonymize_run.work_of(config, editor)
    if config.mode == "plan":
        return anonymize_plan.plan(config, work)
    if config.detect_only:
        run_here, merge = detect_regions.run, detect_regions.merge
    else:
        run_here, merge = anonymize_run.run, anonymize_run.merge
    if config.mode == "merge":
        return merge(config, work)
    if config.engine.devices > 1:
        return anonymize_run.run_on_devices(config, work, lambda: merge(config, work))
    return run_here(config, work)
