"""Weights & Biases, told nothing of the machine it runs on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from unsafe2safe.tracking.guard import Cell, Pixels, Sink

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
            config=dict(config),
            settings=settings,
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log a step. On resuming, W&B leaves out the steps it has."""
        self._run.log(dict(values), step=step)

    def image(self, key: str, image: Pixels) -> None:
        """Log a picture."""
        self._run.log({key: self._wandb.Image(image)})

    def text(self, key: str, text: str) -> None:
        """Log a text."""
        self._run.log({key: self._wandb.Html(f"<p>{escape(text)}</p>", inject=False)})

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Log a table, as HTML: ``wandb.Table`` would leave a copy in a folder of the user's home
        and write that folder's path into the run."""
        lines = [_row(columns, "th"), *(_row(row, "td") for row in rows)]
        content = f"<table>{''.join(lines)}</table>"
        self._run.log({key: self._wandb.Html(content, inject=False)})

    def finish(self) -> None:
        """End the run and delete W&B's debug logs."""
        self._run.finish()
        delete_debug_logs(self._folder)


def _row(cells: Sequence[Cell], tag: str) -> str:
    inner = "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def delete_debug_logs(folder: Path) -> None:
    """Delete the debug logs of all W&B runs in ``folder``, and the links to them."""
    root = folder / _FOLDER
    for logs in root.glob("*run-*/logs"):
        shutil.rmtree(logs, ignore_errors=True)
    for link in root.glob("debug*.log"):
        with suppress(OSError):
            link.unlink()
