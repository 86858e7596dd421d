"""Run folders: where a run writes, whether it may, and what it has finished.

``run.json`` is the only file with a clock. A folder belongs to one configuration, told by its
fingerprint: the hash of everything in the configuration that changes the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import (
    atomic_path,
    inside,
    make_private,
    remove_temporaries,
    write_json,
)
from unsafe2safe.core.locks import PREFIX, lock_folder, opening
from unsafe2safe.core.units import Shard, UnitCut

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
    """An output folder opened for writing by exactly one process, or by one for each shard, with
    its private share. A shard writes its units and never marks the run complete."""

    def __init__(
        self, spec: RunSpec, lock: FileLock, state: dict[str, Any], shard: Shard | None = None
    ) -> None:
        self.spec = spec
        self.path = spec.output_dir
        self._lock = lock
        self.state = state
        self.shard = shard

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
    def open(cls, spec: RunSpec, existing: str, shard: Shard | None = None) -> RunFolder:
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
        if shard is not None and existing != "resume":
            raise UsageError(
                f"existing={existing} with engine.shard={shard} would turn the shards against each "
                "other; give it to none of them"
            )
        with opening(path):
            lock = lock_folder(path, shard)
            try:
                state = cls._continue(spec, existing) or cls._begin(spec)
                if shard is not None and state.get("shards") != shard.count:
                    state["shards"] = shard.count
                    write_json(path / "run.json", state)
                folder = cls(spec, lock, state, shard)
                if shard is None:  # the temporaries of other shards are theirs
                    remove_temporaries(path)
                    remove_temporaries(spec.private_root / state["private"])
            except BaseException:
                lock.release()
                raise
        return folder

    def keep_to(self, cut: UnitCut) -> None:
        """Hold this run to the units it began with: part 7 is the same images for ever.

        Raises:
            UsageError: the data set or ``engine.unit_size`` has changed since.
        """
        with opening(self.path):
            state = read_run(self.path) or self.state
            began = state.get("units")
            if began is None:
                self.state = {**state, "units": asdict(cut)}
                write_json(self.path / "run.json", self.state)
                return
        if began["size"] != cut.size:
            raise UsageError(
                f"output_dir={self.path} was begun with engine.unit_size={began['size']}, not "
                f"{cut.size}; give the same again (or another output_dir, or existing=overwrite)"
            )
        if began != asdict(cut):
            raise UsageError(
                f"the data set has changed since output_dir={self.path} was begun: it had "
                f"{began['images']} images, now there are {cut.images}, or their names differ "
                "(choose another output_dir, or existing=overwrite)"
            )

    @staticmethod
    def _continue(spec: RunSpec, existing: str) -> dict[str, Any] | None:
        state = read_run(spec.output_dir)
        if state is None:
            foreign = [p.name for p in spec.output_dir.iterdir() if not p.name.startswith(PREFIX)]
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
                if not path.name.startswith(PREFIX):
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
        private = private_share(spec.script, spec.output_dir)
        # what a deleted folder of the same name left behind belongs to no run any more
        shutil.rmtree(spec.private_root / private, ignore_errors=True)
        state = {
            "script": spec.script,
            "status": "running",
            "dataset": spec.dataset_key,
            "fingerprint": fingerprint(spec.keys),
            "keys": json.loads(json.dumps(dict(spec.keys), default=str)),
            "config": json.loads(json.dumps(dict(spec.config), default=str)),
            "private": private,
            "versions": _versions(),
            "started": _now(),
            "finished": None,
            "counts": {},
        }
        write_json(spec.output_dir / "run.json", state)
        return state

    def finish(self, counts: Mapping[str, int], **facts: Any) -> None:
        """Mark the run complete; ``facts`` are added to run.json."""
        if self.shard is not None:
            raise RuntimeError("a shard never completes a run")
        self.state.update(facts)
        self.state.update(status="complete", finished=_now(), counts=dict(counts))
        write_json(self.path / "run.json", self.state)

    def reopen(self) -> None:
        """Mark a complete run as running again: more of it was asked for."""
        if self.complete:
            self.state.update(status="running", finished=None)
            write_json(self.path / "run.json", self.state)

    def write_failures(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Replace ``failures.jsonl``: one line per item, with its reason."""
        with (
            atomic_path(self.path / "failures.jsonl") as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as file,
        ):
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def private_share(script: str, output_dir: Path) -> str:
    """Where under ``paths.private`` the run in ``output_dir`` keeps what is private."""
    unique = fingerprint({"path": str(output_dir.resolve())}, 8)
    return f"{script}/{output_dir.name}-{unique}"


def purge(script: str, output_dir: Path, private_root: Path) -> tuple[Path, int]:
    """Delete the private share of the run in ``output_dir``, which itself may be gone already.

    Returns:
        The deleted folder and how many files it held.

    Raises:
        UsageError: another script wrote the run, a process is writing it, or the share cannot be
            deleted.
    """
    state = read_run(output_dir)
    if state is None:
        return _delete_share(private_root, script, private_share(script, output_dir))
    if state["script"] != script:
        raise UsageError(f"{output_dir} was written by {state['script']}.py, not by {script}.py")
    with opening(output_dir):
        lock = lock_folder(output_dir, None)
        try:
            deleted = _delete_share(private_root, script, str(state["private"]))
            write_json(output_dir / "run.json", {**state, "purged": _now()})
        finally:
            lock.release()
    return deleted


def _delete_share(private_root: Path, script: str, name: str) -> tuple[Path, int]:
    share = inside(private_root, name)
    if share.resolve().parent != (private_root / script).resolve():
        raise UsageError(f"{name!r} in run.json is not the private share of a run of {script}.py")
    files = sum(1 for path in share.rglob("*") if not path.is_dir())
    if not share.exists():
        return share, 0
    try:
        shutil.rmtree(share)
    except OSError as error:
        raise UsageError(f"cannot delete {share}: {error.strerror}") from None
    return share, files


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
