"""Sections of ``configs/anonymize.yaml`` that are about running and auditing. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeInt

from unsafe2safe.core.config.components import Strict
from unsafe2safe.core.config.schema_common import ShardedEngine


class OverlappingEngine(ShardedEngine):
    ahead: NonNegativeInt = Field(
        description=(
            "Batches decoded and looked at while another one is edited; 0: none. Changes no result."
        )
    )


class Audit(Strict):
    root: str | None = Field(
        pattern="^[0-9a-fA-F]{64}$",
        description="`mode=audit`: the root that the publisher told; null: the folder's own.",
    )
    report: Path | None = Field(
        description="`mode=audit`: write what was found to this JSON file; null: none is written."
    )
