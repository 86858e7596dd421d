"""The embedded ONNX models: loaded once per process, on first use, on the CPU."""

from __future__ import annotations

import logging
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from unsafe2safe.core.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime

_log = logging.getLogger("unsafe2safe")


@cache
def session(name: str, threads: int) -> onnxruntime.InferenceSession:
    """The inference session of ``assets/models/<name>.onnx``.

    ``threads`` is the number of threads of one inference; 0 leaves it to onnxruntime.

    Raises:
        UsageError: the package holds no such model.
    """
    path = resources.files("unsafe2safe.assets") / "models" / f"{name}.onnx"
    if not path.is_file():
        raise UsageError(f"model {name!r} is not in the package ({path}); reinstall unsafe2safe")
    with resources.as_file(path) as file:
        loaded = open_session(file, threads)
    _log.info("loaded model %s (threads: %s)", name, threads or "automatic")
    return loaded


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """A new inference session of a model's file; ``threads`` as in :func:`session`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads of one model must not spin on the cores that the next one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Images come in many sizes: an arena would keep the memory of the largest one for good.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(
        str(file), sess_options=options, providers=["CPUExecutionProvider"]
    )
