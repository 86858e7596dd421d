"""Flags are counted as they are used, doubt is told apart, and figures are the textbook's."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import PrivacyFlag, Provenance, Triplet, TripletState
from unsafe2safe.core.tables import write_records
from unsafe2safe.data.truth import PrivacyTruth
from unsafe2safe.evaluation.flags import evaluate_flags, flags_headline
from unsafe2safe.jobs import evaluate
from unsafe2safe.jobs.common import run_spec
from unsafe2safe.metrics.flags import Confusion, flag_figures


def triplet(image_id, flag, state=TripletState.COMPLETE):
    return Triplet(image_id, PrivacyFlag(flag), state, "", "", None, "", Provenance("test"))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_figures_are_those_of_their_definitions(pairs):
    figures = flag_figures(Confusion.of(pairs), 50, np.random.default_rng(0))
    tp = sum(truth and flag for truth, flag in pairs)
    flagged, unsafe = sum(flag for _, flag in pairs), sum(truth for truth, _ in pairs)
    expected = {
        "accuracy": sum(truth == flag for truth, flag in pairs) / len(pairs) if pairs else None,
        "precision": tp / flagged if flagged else None,
        "recall": tp / unsafe if unsafe else None,
        "f1": 2 * tp / (flagged + unsafe) if flagged + unsafe else None,
    }
    for name, value in expected.items():
        assert figures[name].value == (None if value is None else pytest.approx(value))
    assert figures["precision"].n == flagged
    assert figures["recall"].n == unsafe


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        truths = rng.random(300) < 0.5
        flags = np.where(rng.random(300) < 0.8, truths, ~truths)
        pairs = zip(truths.tolist(), flags.tolist(), strict=True)
        low, high = flag_figures(Confusion.of(pairs), 400, rng)["recall"].interval
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_an_unread_flag_counts_apart_and_as_unsafe_where_it_is_used():
    truths = {
        "a": PrivacyTruth(True, ("face",)),
        "b": PrivacyTruth(True, ("face", "name")),
        "c": PrivacyTruth(False, ()),
        "d": PrivacyTruth(False, ()),
        "e": PrivacyTruth(True, ("name",)),
        "f": PrivacyTruth(True, ("name",)),
    }
    found = evaluate_flags(
        "x",
        truths,
        [
            triplet("a", "unsafe"),
            triplet("b", "safe"),
            triplet("c", "safe"),
            triplet("d", "safe", TripletState.NEEDS_REVIEW),  # whatever it says, it is not safe
            triplet("e", "unsafe", TripletState.FAILED),
            triplet("of another set", "unsafe"),
        ],
        samples=100,
        seed=0,
    )
    answered, used = found.rows
    assert (found.images, found.unparsed, found.failed, found.undescribed) == (5, 1, 1, 1)
    assert answered.confusion == Confusion(1, 0, 1, 1)
    assert used.confusion == Confusion(2, 1, 1, 1)
    assert answered.recall_by_label["face"].value == 0.5
    assert used.recall_by_label["name"].value == 0.5
    assert used.recall_by_label["name"].n == 2
    assert "1 without a flag" in flags_headline(found)


@pytest.fixture
def flagged(tmp_path):
    """A complete run over the sample photographs that flags all but the cat, rightly or not."""
    places = [f"paths.runs={tmp_path / 'outputs'}", f"paths.private={tmp_path / 'private'}"]
    config = load("generate_triplets", places)
    spec = run_spec(config, "generate_triplets", "detectors")
    names = ["astronaut.jpg", "cameraman.jpg", "cat.jpg", "coffee.jpg"]
    with RunFolder.open(spec, "resume") as folder:
        rows = [triplet(name, "safe" if name == "cat.jpg" else "unsafe") for name in names]
        write_records(folder.path / "triplets" / "part-000000.parquet", Triplet, rows)
        folder.finish({"images": len(rows)})
    return places


def test_the_suite_measures_the_newest_run_of_a_data_set_with_a_truth(flagged):
    result = evaluate.run(load("evaluate", [*flagged, "suite=flags"]))
    assert result.counts == {"images": 4, "unparsed": 0, "failed": 0, "undescribed": 7}
    metrics = json.loads((result.output_dir / "metrics.json").read_text())
    figures = metrics["rows"][1]["figures"]
    assert figures["accuracy"]["value"] == 0.75
    assert figures["recall"]["value"] == 1.0
    with (result.output_dir / "tables" / "flags.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"", "face"}
    again = evaluate.run(load("evaluate", [*flagged, "suite=flags"]))
    assert (again.output_dir / "metrics.json").read_text() == json.dumps(
        metrics, indent=2, sort_keys=True
    ) + "\n"


def test_a_data_set_without_a_truth_is_told(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="does not say which of its images are private"):
        evaluate.run(
            load("evaluate", ["suite=flags", "dataset=folder", f"dataset.root={tmp_path}"])
        )
