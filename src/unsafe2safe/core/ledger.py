"""Run folders: where a run writes, whether it may, and what it has finished.

``run.json`` is the only file with a clock. A folder belongs to one configuration, told by its
fingerprint: the hash of everything in the configuration that changes the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import make_private, remove_temporaries, write_json, write_text

_VERSIONED = ("unsafe2safe", "torch", "diffusers", "transformers", "peft", "onnxruntime", "numpy")
_NEVER_CHANGES_RESULT = ("output_dir", "existing", "mode", "paths", "engine", "logger", "report")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested configuration."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def result_keys(config: Mapping[str, Any], ignored: Iterable[str] = ()) -> dict[str, Any]:
    """The part of ``config`` that changes the result, as dotted keys."""
    left_out = (*_NEVER_CHANGES_RESULT, *ignored)
    return {
        key: value
        for key, value in sorted(flatten(config).items())
        if not any(key == name or key.startswith(f"{name}.") for name in left_out)
    }


def fingerprint(keys: Mapping[str, Any], length: int = 10) -> str:
    """A short hash of dotted keys."""
    text = json.dumps(keys, sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=16).hexdigest()[:length]


def dataset_key(dataset: Mapping[str, Any]) -> str:
    """Identity of a data set whatever its ``limit``; says nothing of where its root lies."""
    kept = {key: value for key, value in dataset.items() if key != "limit"}
    return f"{dataset['name']}-{fingerprint(kept)}"


@dataclass(frozen=True)
class RunSpec:
    """All that identifies a run before its folder is opened."""

    script: str
    output_dir: Path
    private_root: Path
    keys: Mapping[str, Any]  # result_keys of the configuration and of its inputs
    config: Mapping[str, Any]
    dataset_key: str


class RunFolder:
    """An output folder opened for writing by exactly one process, with its private share."""

    def __init__(self, spec: RunSpec, lock: FileLock, state: dict[str, Any]) -> None:
        self.spec = spec
        self.path = spec.output_dir
        self._lock = lock
        self.state = state

    @property
    def private(self) -> Path:
        """The run's own folder under ``paths.private``, created on first use with mode 0700."""
        make_private(self.spec.private_root)
        make_private(self.spec.private_root / self.spec.script)
        return make_private(self.spec.private_root / self.state["private"])

    @property
    def complete(self) -> bool:
        return bool(self.state["status"] == "complete")

    @classmethod
    def open(cls, spec: RunSpec, existing: str) -> RunFolder:
        """Create or continue ``spec.output_dir``.

        Raises:
            UsageError: the folder cannot be written, is in use by another process, holds foreign
                files, or belongs to another configuration.
        """
        path = spec.output_dir
        if path.resolve().is_relative_to(spec.private_root.resolve()):
            raise UsageError(f"output_dir={path} lies inside paths.private={spec.private_root}")
        if spec.private_root.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"paths.private={spec.private_root} lies inside output_dir={path}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"{path} is being written by another process") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UsageError(f"cannot write to output_dir={path}: {reason}") from None
        try:
            state = cls._continue(spec, existing) or cls._begin(spec)
        except BaseException:
            lock.release()
            raise
        remove_temporaries(path)
        return cls(spec, lock, state)

    @staticmethod
    def _continue(spec: RunSpec, existing: str) -> dict[str, Any] | None:
        state = read_run(spec.output_dir)
        if state is None:
            foreign = [p.name for p in spec.output_dir.iterdir() if p.name != ".lock"]
            if foreign:
                raise UsageError(
                    f"output_dir={spec.output_dir} holds files of no run of ours "
                    f"({sorted(foreign)[0]}); choose an empty or new folder"
                )
            return None
        if state["script"] != spec.script:
            raise UsageError(f"{spec.output_dir} was written by {state['script']}, not by us")
        if existing == "overwrite":
            for path in spec.output_dir.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(spec.private_root / state["private"], ignore_errors=True)
            return None
        now = json.loads(json.dumps(dict(spec.keys), default=str))
        differing = sorted(
            key for key in {*state["keys"], *now} if state["keys"].get(key) != now.get(key)
        )
        if existing == "refuse" or differing:
            told = f"; it differs in {', '.join(differing)}" if differing else ""
            raise UsageError(
                f"output_dir={spec.output_dir} exists{told} "
                "(choose another output_dir, or existing=overwrite)"
            )
        return state

    @staticmethod
    def _begin(spec: RunSpec) -> dict[str, Any]:
        unique = fingerprint({"path": str(spec.output_dir.resolve())}, 8)
        state = {
            "script": spec.script,
            "status": "running",
            "dataset": spec.dataset_key,
            "fingerprint": fingerprint(spec.keys),
            "keys": json.loads(json.dumps(dict(spec.keys), default=str)),
            "config": json.loads(json.dumps(dict(spec.config), default=str)),
            "private": f"{spec.script}/{spec.output_dir.name}-{unique}",
            "versions": _versions(),
            "started": _now(),
            "finished": None,
            "counts": {},
        }
        write_json(spec.output_dir / "run.json", state)
        return state

    def finish(self, counts: Mapping[str, int], **facts: Any) -> None:
        """Mark the run complete; ``facts`` are added to run.json."""
        self.state.update(facts)
        self.state.update(status="complete", finished=_now(), counts=dict(counts))
        write_json(self.path / "run.json", self.state)

    def write_failures(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Replace ``failures.jsonl``: one line per item, with its reason."""
        lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows]
        write_text(self.path / "failures.jsonl", "".join(line + "\n" for line in lines))

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of ``folder/run.json``, or None where there is none."""
    try:
        state: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
        return state
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder / 'run.json'} cannot be read ({error})") from None


def newest_complete(runs_root: Path, script: str, dataset: str) -> Path | None:
    """The newest complete run of ``script`` for the data set, or None."""
    found: list[tuple[str, Path]] = []
    for run_file in (runs_root / script).glob("*/run.json"):
        state = read_run(run_file.parent)
        if state and state["status"] == "complete" and state["dataset"] == dataset:
            found.append((str(state["finished"]), run_file.parent))
    return max(found)[1] if found else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
