"""Weights & Biases, told nothing of the machine it runs on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from unsafe2safe.tracking.guard import Passed, Pixels, Sink
from unsafe2safe.tracking.pictures import inline_png

_FOLDER = "wandb"


class WandbSink(Sink):
    """One W&B run inside the run folder; ``run_id`` is the same whenever the run is resumed.

    Console capture, code and git saving, machine metadata, host name and system statistics are
    off. W&B's own debug logs name paths of this machine: they are deleted at start and end.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        project: str,
        config: Mapping[str, Any],
        *,
        online: bool,
    ) -> None:
        """Open the run. ``config`` must be redacted already."""
        import wandb

        self._wandb = wandb
        self._folder = folder
        delete_debug_logs(folder)
        _wait_for_a_name(folder, run_id)
        settings = wandb.Settings(
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host="",
            username="",
            program="",
            program_relpath="",
            program_abspath="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            silent=True,
        )
        self._run: Any = wandb.init(
            project=project,
            id=run_id,
            dir=str(folder.resolve()),
            mode="online" if online else "offline",
            resume="allow" if online else None,
            reinit="create_new",  # never another's that is still open in this process
            config=dict(config),
            settings=settings,
        )

        self._step = 0
        # The x axis of every panel is the optimizer's step, also where a resumed run logs again.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log a step. On resuming, W&B leaves out the steps it has."""
        self._step = step
        self._log({"step": step, **values})

    def best(self, values: Mapping[str, float]) -> None:
        """Keep in the run's summary."""
        self._run.summary.update(dict(values))

    def summary(self, values: Mapping[str, float]) -> None:
        """Keep in the run's summary."""
        self._run.summary.update(dict(values))

    def figure(self, key: str, figure: Mapping[str, Any], drawing: Pixels) -> None:  # noqa: ARG002
        """Log an interactive chart."""
        import plotly.graph_objects as go

        content = {name: figure[name] for name in ("data", "layout")}
        self._log({key: self._wandb.Plotly(go.Figure(content))})

    def image(self, key: str, image: Pixels) -> None:
        """Log a picture."""
        self._log({key: self._wandb.Image(image)})

    def text(self, key: str, text: str) -> None:
        """Log a text."""
        self._log({key: self._wandb.Html(f"<p>{escape(text)}</p>", inject=False)})

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Passed]]) -> None:
        """Log a table of the run; one with pictures as HTML that holds them."""
        if any(isinstance(cell, np.ndarray) for row in rows for cell in row):
            lines = [_row(columns, "th"), *(_row(row, "td") for row in rows)]
            content = f"<table>{''.join(lines)}</table>"
            self._log({key: self._wandb.Html(content, inject=False)})
        else:
            table = run_table(list(columns), [list(row) for row in rows])
            self._log({key: table})

    def _log(self, values: Mapping[str, Any]) -> None:
        # By name: without it W&B counts a step of its own for each, and then drops the next metrics
        # as belonging to the past.
        self._run.log(dict(values), step=self._step)

    def files(self, name: str, kind: str, paths: Sequence[Path]) -> None:
        """Log an artifact. Its files are taken where they lie, by their path from here: W&B's own
        copy would lie in a folder of the user's home, and its path be written into the run."""
        artifact = self._wandb.Artifact(name, kind)
        for path in paths:
            here = os.path.relpath(path)
            artifact.add_file(here, name=path.name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        """End the run and delete W&B's debug logs."""
        self._run.finish()
        delete_debug_logs(self._folder)


def _wait_for_a_name(folder: Path, run_id: str) -> None:
    """W&B names the folder of a start by the second: a start in the same one would take the folder
    of the one before, and its rows be lost."""
    while any((folder / _FOLDER).glob(f"*run-{datetime.now():%Y%m%d_%H%M%S}-{run_id}")):
        time.sleep(0.05)


def run_table(columns: list[str], rows: list[list[Any]]) -> Any:
    """A ``wandb.Table`` that is a file of its run and no artifact beside it: an artifact would be
    staged in a folder of the user's home, whose path W&B writes into the run.

    Pictures are no part of such a table: W&B shows them from artifacts only.
    """
    import wandb

    class RunTable(wandb.Table):  # type: ignore[misc]
        _log_type = "run-table"  # of any other name than those that W&B makes artifacts of

    return RunTable(columns=columns, data=rows, allow_mixed_types=True)


def _row(cells: Sequence[Passed], tag: str) -> str:
    inner = "".join(f"<{tag}>{_shown(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _shown(cell: Passed) -> str:
    if isinstance(cell, np.ndarray):
        return f'<img src="{inline_png(cell)}">'
    return "" if cell is None else escape(str(cell))


def delete_debug_logs(folder: Path) -> None:
    """Delete the debug logs of all W&B runs in ``folder``, and the links to them."""
    root = folder / _FOLDER
    for logs in root.glob("*run-*/logs"):
        shutil.rmtree(logs, ignore_errors=True)
    for link in root.glob("debug*.log"):
        with suppress(OSError):
            link.unlink()
