"""What a table of utility rests on: which images train, which test, and what is done once."""

import json
from pathlib import PurePosixPath

import numpy as np
import pytest
from evaluation.make_run import png
from evaluation.utility_world import CLASSES, EACH, HELD, SAFE, make_world, texture

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.synthetic import slot_mask
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.evaluation.results import Evaluation
from unsafe2safe.evaluation.rows import MissingEditError, Row, reference_row
from unsafe2safe.evaluation.subjects import Subjects
from unsafe2safe.evaluation.utility.classification import Classification
from unsafe2safe.evaluation.utility.examples import TEST, Example, divide
from unsafe2safe.evaluation.utility.training_sets import RowPictures
from unsafe2safe.jobs import evaluate
from unsafe2safe.vision.perception import Perception

PROBE = "suite.utility=[classification]"
ROWS = ("original", "blur", "good", "grey")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("utility"))


@pytest.fixture(scope="module")
def seen():
    """(training ids, test ids, rows of the pictures, seed) of each training."""
    return []


@pytest.fixture(scope="module")
def drawn():
    """Ids that each training's probe is fitted to."""
    return []


@pytest.fixture(scope="module")
def table(world, seen, drawn):
    real, features = Classification.measure, Classification._features

    def looked_at(self, examples, bench):
        if examples[0].row != TEST:
            drawn.append([e.image_id for e in examples])
        return features(self, examples, bench)

    def watched(self, train, test, seed, bench):
        ids = [[e.image_id for e in part] for part in (train, test)]
        seen.append((*ids, {e.row for e in train}, seed))
        return real(self, train, test, seed, bench)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "measure", watched)
        patch.setattr(Classification, "_features", looked_at)
        (made,) = world.evaluate(PROBE)
    return made


@pytest.fixture(scope="module")
def rows(table):
    return {row.name: row for row in table.rows}


def of_row(seen, table, name):
    return seen[[row.name for row in table.rows].index(name) * len(table.seeds)]


def numbers(ids):
    return {int(PurePosixPath(name).stem[-4:]) for name in ids}


@pytest.mark.slow
def test_rows_are_the_controls_and_the_runs(table):
    names = [row.name for row in table.rows]
    assert names == ["original", "original_kept", "drop_unsafe", "blur", "mask", "good", "grey"]
    assert table.seeds == (0, 1, 2)
    assert not [row.unavailable for row in table.rows if row.unavailable]


@pytest.mark.slow
def test_a_destroyer_loses_what_originals_are_worth(rows):
    assert rows["original"].metrics["top1"].value > 0.8
    assert rows["good"].metrics["top1"].value > 0.7
    assert rows["grey"].metrics["top1"].value <= rows["grey"].metrics["top1"].details["chance"]
    assert rows["original"].metrics["top1"].interval[0] > rows["grey"].metrics["top1"].value


@pytest.mark.slow
def test_the_same_images_test_every_row_and_seed_and_none_is_trained_on(table, seen):
    assert len(seen) == len(table.rows) * 3
    tests = {tuple(test) for _, test, _, _ in seen}
    assert len(tests) == 1
    (test,) = tests
    assert len(test) == table.test_images == len(CLASSES) * round(0.3 * EACH)
    assert all(not set(train) & set(test) for train, _, _, _ in seen)


@pytest.mark.slow
def test_control_rows_hold_the_images_they_say(table, seen, rows):
    original, kept, safe, good = (
        of_row(seen, table, name)[0]
        for name in ("original", "original_kept", "drop_unsafe", "good")
    )
    assert len(original) == rows["original"].train_images == len(CLASSES) * (EACH - 3)
    assert set(kept) == {name for name in original if not numbers([name]) & set(HELD)}
    assert set(kept) == set(good)
    assert set(safe) == {name for name in original if numbers([name]) <= set(SAFE)}
    assert 0 < len(safe) < len(kept) < len(original)
    pictures = {name: of_row(seen, table, name)[2] for name in rows}
    assert pictures["original"] == pictures["original_kept"] == pictures["drop_unsafe"]
    assert pictures["good"] == {"good"}


@pytest.mark.slow
def test_a_seed_draws_the_same_images_in_every_row(table, drawn):
    def of(name):
        first = [row.name for row in table.rows].index(name) * len(table.seeds)
        return drawn[first : first + len(table.seeds)]

    assert of("good") == of("original_kept") == of("grey")
    assert len({tuple(ids) for ids in of("good")}) == len(table.seeds)


@pytest.mark.slow
def test_images_held_back_are_absent_and_counted(rows):
    lost = "training images held back or left out"
    trained = rows["original"].train_images
    assert rows["original"].metrics["top1"].details[lost] == 0
    for name in ("original_kept", "good", "grey", "drop_unsafe"):
        row = rows[name]
        assert row.metrics["top1"].details[lost] == trained - row.train_images > 0


@pytest.mark.slow
def test_figures_come_with_seeds_chance_counts_and_an_interval(rows, table):
    result = rows["original"].metrics["macro"]
    of_seeds = [result.details[f"seed {seed}"] for seed in table.seeds]
    assert result.value == pytest.approx(np.mean(of_seeds))
    assert result.details["chance"] == pytest.approx(1 / len(CLASSES))
    assert result.n == table.test_images
    blur = rows["grey"].metrics["top1"]
    assert blur.interval[0] < blur.value < blur.interval[1]


@pytest.mark.slow
def test_only_figures_are_kept_beside_the_report(world, table):
    kept = list((world.root / "outputs").rglob("utility/classification/*.json"))
    assert len(kept) == len(table.rows) * 3
    for path in kept:
        text = path.read_text()
        assert not [word for word in (*CLASSES, "image_", str(world.root)) if word in text]


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(world, table, monkeypatch):
    def forbidden(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Classification, "measure", forbidden)
    assert world.evaluate(PROBE) == (table,)


@pytest.mark.slow
def test_a_killed_run_goes_on_after_its_last_training_with_the_same_figures(
    world, table, monkeypatch
):
    real, trained = Classification.measure, []

    def stopped(self, train, test, seed, bench):
        if len(trained) == 4 and "stop" not in trained:
            trained.append("stop")
            raise KeyboardInterrupt
        trained.append(seed)
        return real(self, train, test, seed, bench)

    monkeypatch.setattr(Classification, "measure", stopped)
    overrides = [PROBE, f"output_dir={world.root / 'stopped'}", "utility.controls=[original,blur]"]
    with pytest.raises(KeyboardInterrupt):
        world.evaluate(*overrides)
    (made,) = world.evaluate(*overrides)
    assert made.rows == tuple(row for row in table.rows if row.name in ROWS)
    assert trained == [0, 1, 2, 0, "stop", *[1, 2, 0, 1, 2, 0, 1, 2]]


@pytest.mark.slow
def test_a_row_that_fails_ends_neither_the_table_nor_the_run(world, monkeypatch):
    real = Classification.measure

    def broken(self, train, test, seed, bench):
        if {e.row for e in train} == {"grey"}:
            raise ValueError("Anna Weber")
        return real(self, train, test, seed, bench)

    monkeypatch.setattr(Classification, "measure", broken)
    overrides = [PROBE, "utility.controls=[original]", "utility.seeds=[0]"]
    result = evaluate.run(world.config(f"runs=[{world.good},{world.grey}]", *overrides))
    (made,) = Evaluation.read(result.output_dir / "metrics.json").utility
    assert [bool(row.unavailable) for row in made.rows] == [False, False, True]
    assert "ValueError" in made.rows[2].unavailable
    failures = (result.output_dir / "failures.jsonl").read_text()
    assert json.loads(failures.splitlines()[-1])["row"] == "grey"
    assert "Weber" not in (result.output_dir / "metrics.json").read_text() + failures


@pytest.mark.slow
def test_another_data_set_can_be_the_test_and_its_pictures_are_not_trained_on(world, tmp_path):
    for number, kind in enumerate(CLASSES):
        folder = tmp_path / "101_ObjectCategories" / kind
        folder.mkdir(parents=True)
        (folder / "new.png").write_bytes(png(texture(kind, 90 + number)))
    # a picture that the evaluated set has too, under another name
    (folder / "twin.png").write_bytes(png(texture(kind, 7)))
    (made,) = world.evaluate(
        PROBE,
        "+dataset@utility.test=caltech101",
        f"utility.test.root={tmp_path}",
        "utility.controls=[original]",
        "utility.seeds=[0]",
    )
    assert made.test_images == len(CLASSES) + 1
    assert made.rows[0].train_images == len(CLASSES) * EACH - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Six pictures of two classes, and an edited folder that lacks one of them."""
    root = tmp_path_factory.mktemp("folders")
    for name, left_out in (("originals", None), ("edited", ("lines", 5))):
        for kind in ("discs", "lines"):
            (root / name / kind).mkdir(parents=True)
            for number in range(3, 6):
                if (kind, number) != left_out:
                    path = root / name / kind / f"{number}.png"
                    path.write_bytes(png(texture(kind, number)))
    return [f"originals={root / 'originals'}", f"edited={root / 'edited'}", "utility.seeds=[0]"]


@pytest.mark.slow
def test_folders_of_any_tool_are_measured_by_the_names_of_their_folders(world, folders):
    overrides = [
        *folders,
        "suite.utility=[classification,detection]",
        "seed=1",  # tests other pictures than the one that is lacking
        "utility.classification.labels=folder",
        "utility.controls=[original,original_kept,drop_unsafe]",
    ]
    result = evaluate.run(world.config(*overrides))
    classified, detected = Evaluation.read(result.output_dir / "metrics.json").utility
    rows = {row.name: row for row in classified.rows}
    assert "manifest" in rows["drop_unsafe"].unavailable
    assert rows["original"].train_images == 4
    assert rows["edited"].train_images == rows["original_kept"].train_images == 3
    assert rows["edited"].metrics == rows["original_kept"].metrics
    # what cannot be measured has all its rows, and each says why
    assert [row.name for row in detected.rows] == list(rows)
    assert all("no boxes" in row.unavailable for row in detected.rows)


def test_pictures_without_a_label_teach_no_classifier():
    bare, folder = (
        Example(ImageRecord(name, None), "run", lambda: None) for name in ("a.png", "cats/a.png")
    )
    assert not Classification().usable(folder, None)
    assert Classification(labels="folder").usable(folder, None)
    assert not Classification(labels="folder").usable(bare, None)


def test_settings_of_utility_do_not_part_runs_that_measure_none(world):
    def key(*overrides):
        config = world.config(f"runs=[{world.good}]", *overrides)
        return evaluate._work(config).spec.output_dir

    plain = key()
    assert key("utility.seeds=[5]", "utility.classification.mode=finetune") == plain
    assert key(PROBE) != plain
    assert key(PROBE, "utility.vqa.rank=3") == key(PROBE)
    assert key(PROBE, "utility.classification.mode=finetune") != key(PROBE)


def test_a_wrong_setting_is_told_before_anything_is_measured(world):
    with pytest.raises(ConfigError, match=r"utility\.classification\.moed.*mode"):
        world.evaluate(PROBE, "+utility.classification.moed=probe")


def records(*labels):
    return [ImageRecord(f"{i:03d}.png", None, label=label) for i, label in enumerate(labels)]


def test_the_division_is_by_class_and_depends_on_ids_and_seed_alone():
    made = records(*["a"] * 40, *["b"] * 10, "c")
    first = divide(made, 0.3, seed=0)
    assert divide(made[::-1], 0.3, seed=0) == first
    assert divide(made, 0.3, seed=1) != first
    tested = {"a": 0, "b": 0, "c": 0}
    for record in made:
        tested[record.label] += record.image_id in first.test
    assert tested == {"a": 12, "b": 3, "c": 0}
    assert sorted([*first.train, *first.test]) == [record.image_id for record in made]


def test_a_class_of_two_is_on_either_side_whatever_the_share():
    for share in (0.01, 0.99):
        division = divide(records("a", "a"), share, seed=3)
        assert len(division.train) == len(division.test) == 1


@pytest.fixture
def scenes():
    config = load("evaluate", ["dataset=synthetic"])
    source = SyntheticSource(name="synthetic", size=5)
    ids = [record.image_id for record in source.records()]
    return Subjects(source, ids, None, config), Perception(config.vision, 1)


class Slow(Row):
    """Edits that take long: of a unit at once, and of one image not at all."""

    kind = "editor"

    def __init__(self):
        super().__init__("slow", "slow")
        self.units, self.now = [], []

    def prepare(self, image_ids):
        self.units.append(tuple(image_ids))
        self.now = list(image_ids)

    def edited(self, image_id, original, mask):
        if image_id not in self.now or image_id == "00000002.png":
            raise MissingEditError(image_id, "never edited")
        return 255 - original

    def held_back(self, image_ids):
        return {}


def test_edits_are_made_a_unit_at_a_time_and_once(scenes, tmp_path):
    subjects, perception = scenes
    row = Slow()
    pictures = RowPictures(row, subjects, perception, tmp_path / "slow", unit_size=2)
    found, absent = pictures.made(subjects.image_ids)
    assert found == [name for name in subjects.image_ids if name != "00000002.png"]
    assert absent == {"never edited": 1}
    assert [len(unit) for unit in row.units] == [2, 2, 1]
    row.now = []
    original = subjects.source.decode(subjects.record(found[0])).pixels
    assert np.array_equal(pictures.read(found[0]), 255 - original)
    kept = list((tmp_path / "slow").iterdir())
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert (tmp_path / "slow").stat().st_mode & 0o777 == 0o700


def test_the_mask_row_is_grey_where_something_is_sensitive_and_nowhere_else(scenes, tmp_path):
    subjects, perception = scenes
    row = reference_row("mask", 0.02, subjects)
    pictures = RowPictures(row, subjects, perception, tmp_path / "mask", unit_size=8)
    name = subjects.image_ids[0]
    original = subjects.source.decode(subjects.record(name)).pixels
    inside = slot_mask(subjects.source.scene(name), 64)
    for _ in range(2):  # computed, then read from where it was kept
        masked = pictures.read(name)
        assert (masked[inside] == 127).all()
        assert np.array_equal(masked[~inside], original[~inside])


def test_flags_have_no_utility(tmp_path):
    config = load("evaluate", ["suite=flags", "dataset=synthetic", PROBE])
    with pytest.raises(UsageError, match=r"suite\.utility"):
        evaluate.run(config)
