"""The embedded ONNX models: loaded once per process, on first use, on the CPU."""

from __future__ import annotations

import logging
from functools import cache
from hashlib import blake2b
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unsafe2safe.core.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime

_log = logging.getLogger("unsafe2safe")
# Elements of an input up to which its activations stay allocated: two views of a megapixel, for
# which the face detector needs some 400 MB.
_KEPT = 2 * 3 * 1024**2


@cache
def session(name: str, threads: int) -> onnxruntime.InferenceSession:
    """The inference session of ``assets/models/<name>.onnx``.

    ``threads`` is the number of threads of one inference; 0 leaves it to onnxruntime.

    Raises:
        UsageError: the package holds no such model.
    """
    with resources.as_file(_asset(name)) as file:
        loaded = open_session(file, threads)
    _log.info("loaded model %s (threads: %s)", name, threads or "automatic")
    return loaded


@cache
def digest(name: str) -> str:
    """What tells this model's file from others of its name.

    Raises:
        UsageError: the package holds no such model.
    """
    return blake2b(_asset(name).read_bytes(), digest_size=8).hexdigest()


def _asset(name: str) -> Traversable:
    path = resources.files("unsafe2safe.assets") / "models" / f"{name}.onnx"
    if not path.is_file():
        raise UsageError(f"model {name!r} is not in the package ({path}); reinstall unsafe2safe")
    return path


def open_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """A new inference session of a model's file; ``threads`` as in :func:`session`.

    It keeps the memory of its activations between inferences: to get it from the system each time,
    page by page, takes half as long again as the inference itself. Images come in many sizes, so
    that of a large input is given back.
    """
    import onnxruntime

    released = onnxruntime.RunOptions()
    released.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
            if run_options is None and sum(part.size for part in input_feed.values()) > _KEPT:
                run_options = released
            return super().run(output_names, input_feed, run_options)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads of one model must not spin on the cores that the next one needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # one for each size, and there are many
    return Session(str(file), sess_options=options, providers=["CPUExecutionProvider"])
