"""Figures order what is known: weaker anonymizers leak more, spoiled bystanders are less like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from evaluation.test_attackers import with_features
from scipy.stats import spearmanr

from unsafe2safe.core.randomness import generator
from unsafe2safe.data.synthetic import Redrawn, render, slot_mask
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.evaluation.attackers.reidentification import (
    AdaptiveReidentification,
    NaiveReidentification,
)
from unsafe2safe.evaluation.attackers.text import TextReadback
from unsafe2safe.evaluation.known_strength import partly_undone
from unsafe2safe.metrics.base import Metric, PairSample, SceneTruth, SetMetric
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.metrics.scene_truth import (
    Followed,
    Leaked,
    OutsidePsnr,
    OutsideSsim,
    Reidentified,
)
from unsafe2safe.metrics.structure import PsnrOutside, SsimInside, SsimOutside
from unsafe2safe.metrics.truth import outside_private

SCENES = 60
STEPS = np.linspace(0, 1, 11)
FOUR = ("hair_color", "hair_style", "skin", "clothing")
LEAKS: dict[str, Metric] = {
    "leaked": Leaked(attributes=FOUR),
    "leaked letters": Leaked(attributes=("letters",)),
    "re-identified": Reidentified(),
    "SSIM inside": SsimInside(),
    "text read back": TextReadback(),
    "naive attack": NaiveReidentification(embedding="pixels"),
    "adaptive attack": AdaptiveReidentification(),
}
FIDELITY: dict[str, Metric] = {
    "SSIM outside private layers": OutsideSsim(),
    "PSNR outside private layers": OutsidePsnr(),
    "SSIM outside": SsimOutside(),
    "PSNR outside": PsnrOutside(),
}
_SOURCE = SyntheticSource(name="synthetic", size=SCENES, seed=1)

Edit = Callable[[str, Redrawn], np.ndarray]


@pytest.fixture(scope="module")
def redrawn() -> dict[str, Redrawn]:
    ids = [record.image_id for record in _SOURCE.records()]
    return {image_id: _SOURCE.edit_of(image_id, 0).redrawn for image_id in ids}


def pairs(redrawn: dict[str, Redrawn], edit: Edit) -> list[PairSample]:
    gallery = [one.source for one in redrawn.values()]
    return [
        PairSample(
            image_id,
            ImageFeatures(render(one.source), None),
            ImageFeatures(edit(image_id, one), None),
            slot_mask(one.source, 64),
            truth=SceneTruth(one, gallery),
        )
        for image_id, one in redrawn.items()
    ]


def value(metric: Metric, samples: Sequence[PairSample]) -> float:
    rng = generator(0, "", 0, "known truths")
    if isinstance(metric, SetMetric) and not isinstance(metric, TextReadback):
        found = metric.conclude([with_features(one) for one in samples], 50, rng).value
    else:
        found = metric.aggregate(metric.measure(samples), 50, rng).value
    assert found is not None
    return found


def weakened(share: float) -> Edit:
    def edit(image_id: str, one: Redrawn) -> np.ndarray:
        return render(partly_undone(one, share, generator(0, image_id, stream="weakened")))

    return edit


def noisy(share: float) -> Edit:
    def edit(image_id: str, one: Redrawn) -> np.ndarray:
        target = render(one.scene)
        noise = generator(0, image_id, stream="noise").normal(0, 60, target.shape) * share
        spoiled = np.clip(target + noise, 0, 255).round().astype(np.uint8)
        return np.where(outside_private(one, 64)[..., None], spoiled, target)

    return edit


def ranks(
    redrawn: dict[str, Redrawn], metrics: dict[str, Metric], edits: Callable[[float], Edit]
) -> dict[str, float]:
    """Spearman's correlation of each metric with ten steps from nothing to all."""
    table = []
    for step in STEPS:
        samples = pairs(redrawn, edits(float(step)))
        table.append([value(metric, samples) for metric in metrics.values()])
    columns = np.array(table).T
    return {
        name: float(spearmanr(STEPS, column).statistic)
        for name, column in zip(metrics, columns, strict=True)
    }


@pytest.mark.slow
def test_leakage_rises_as_an_anonymizer_is_weakened_in_ten_steps(redrawn) -> None:
    found = ranks(redrawn, LEAKS, weakened)
    assert all(rank >= 0.95 for rank in found.values()), found


@pytest.mark.slow
def test_fidelity_falls_as_what_is_outside_is_spoiled_in_ten_steps(redrawn) -> None:
    few = dict(list(redrawn.items())[:20])
    found = ranks(few, FIDELITY, noisy)
    assert all(rank <= -0.95 for rank in found.values()), found


def test_what_is_undone_grows_from_nothing_to_all(redrawn) -> None:
    one = next(iter(redrawn.values()))
    shares = (0.0, 0.4, 0.7, 1.0)
    scenes = [partly_undone(one, share, generator(0, "x", stream="undone")) for share in shares]
    assert (scenes[0], scenes[-1]) == (one.scene, one.source)
    changed = [
        sum(
            getattr(a, name) != getattr(b, name)
            for a, b in zip(scene.private.persons, one.source.private.persons, strict=True)
            for name in FOUR
        )
        for scene in scenes
    ]
    assert changed == sorted(changed, reverse=True)


@pytest.fixture(scope="module")
def planted(redrawn) -> dict[str, dict[str, float]]:
    """A cheater that returns its input, a destroyer that returns grey, and the perfect edit."""
    edits: dict[str, Edit] = {
        "cheater": lambda _, one: render(one.source),
        "destroyer": lambda _, one: np.full((64, 64, 3), 127, np.uint8),
        "perfect": lambda _, one: render(one.scene),
    }
    metrics = {**LEAKS, **FIDELITY, "followed": Followed(attributes=FOUR)}
    return {
        name: {key: value(metric, samples) for key, metric in metrics.items()}
        for name, samples in ((name, pairs(redrawn, edit)) for name, edit in edits.items())
    }


def test_a_cheater_is_caught_by_cheating_and_privacy(planted) -> None:
    cheater, perfect = planted["cheater"], planted["perfect"]
    assert cheater["SSIM outside"] == perfect["SSIM outside private layers"] == 1.0
    assert cheater["SSIM inside"] == 1.0 > perfect["SSIM inside"] + 0.4  # Cheating
    for name in ("leaked", "leaked letters", "re-identified", "text read back"):  # Privacy
        assert cheater[name] > 0.9
        assert perfect[name] < 0.1
    assert cheater["naive attack"] == cheater["adaptive attack"] == 1.0


def test_a_destroyer_is_caught_by_quality_though_privacy_praises_it(planted) -> None:
    destroyer = planted["destroyer"]
    assert destroyer["re-identified"] < 0.1
    assert destroyer["naive attack"] < 0.05
    assert destroyer["SSIM outside private layers"] < 0.7  # Quality
    assert destroyer["SSIM outside"] < 0.7
    assert destroyer["PSNR outside"] < 20
    assert destroyer["followed"] < 0.4
