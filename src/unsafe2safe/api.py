"""The four scripts as functions, for Python callers.

    from unsafe2safe import api

    triplets = api.generate_triplets("dataset=folder", "dataset.root=photos")
    safe = api.anonymize("dataset=folder", "dataset.root=photos", "editor.method=mosaic")
    print(safe.counts, safe.output_dir)

Each takes the overrides that its script takes, returns a ``RunResult`` and raises
``Unsafe2SafeError`` where the script would print one line and exit with status 2.
"""

from __future__ import annotations

from typing import cast

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import Anonymize, Evaluate, GenerateTriplets
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.core.records import RunResult


def generate_triplets(*overrides: str) -> RunResult:
    """Stage 1: flags, captions, regions and edit instructions of a data set."""
    from unsafe2safe.jobs import generate_triplets as job

    return job.run(cast(GenerateTriplets, load("generate_triplets", overrides)))


def anonymize(*overrides: str) -> RunResult:
    """Stage 2: edit, verify, publish or hold back."""
    from unsafe2safe.jobs import anonymize as job

    return job.run(cast(Anonymize, load("anonymize", overrides)))


def train(*overrides: str) -> RunResult:
    """Fine-tune an editor on training pairs."""
    from unsafe2safe.jobs import train as job

    return job.run(cast(Train, load("train", overrides)))


def evaluate(*overrides: str) -> RunResult:
    """Measure runs or folders, beside reference rows."""
    from unsafe2safe.jobs import evaluate as job

    return job.run(cast(Evaluate, load("evaluate", overrides)))
