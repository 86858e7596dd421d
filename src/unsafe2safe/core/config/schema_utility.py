"""Settings of ``suite.utility``. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt

from unsafe2safe.core.config.components import Strict
from unsafe2safe.core.config.schema_common import Component

Control = Literal["original", "original_kept", "drop_unsafe", "blur", "mask"]
CONTROLS: tuple[Control, ...] = ("original", "original_kept", "drop_unsafe", "blur", "mask")


class Utility(Strict):
    seeds: tuple[NonNegativeInt, ...] = Field(
        min_length=1,
        description="One training of each row for each seed; fewer than three say little.",
    )
    test: Component | None = Field(
        description=(
            "Data set of real images to test on (`+dataset@utility.test=folder "
            "utility.test.root=DIR`); null: a share of the evaluated originals is kept from all "
            "training."
        )
    )
    test_share: float = Field(
        gt=0, lt=1, description="Share of the originals of each class that is tested on."
    )
    controls: tuple[Control, ...] = Field(
        description="Rows beside the measured ones: trained on all originals, on those that a run "
        "published, on those that a run left as they were, on blurred and on masked originals."
    )
    classification: Component = Field(description="`suite.utility=[classification]`.")
    captioning: Component = Field(description="`suite.utility=[captioning]`.")
    vqa: Component = Field(description="`suite.utility=[vqa]`.")
    detection: Component = Field(description="`suite.utility=[detection]`.")
