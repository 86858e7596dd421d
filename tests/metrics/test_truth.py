"""Truth-based metrics with the packaged reader: targets follow, copies leak, blanks do neither."""

from __future__ import annotations

import numpy as np
import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.data.synthetic import WORLDS, draw_scene, private_mask, render
from unsafe2safe.data.synthetic.source import counterpart
from unsafe2safe.metrics.truth import as_table, bystander_scores, chance, score
from unsafe2safe.vision.attribute_reader import (
    PERSON_VALUES,
    board_texts,
    load_reader,
    packaged_reader,
)

COUNT = 120


@pytest.fixture(scope="module")
def reader():
    return load_reader(packaged_reader())


@pytest.fixture(scope="module")
def pairs():
    world = WORLDS["values"]
    return [
        counterpart(draw_scene(world, 91, index), world, 91, f"{index:08d}.png")
        for index in range(COUNT)
    ]


@pytest.fixture(scope="module")
def rows(reader, pairs):
    sources = np.stack([render(pair.source) for pair in pairs])
    targets = np.stack([render(pair.scene) for pair in pairs])
    gray = sources.copy()
    for picture, pair in zip(gray, pairs, strict=True):
        picture[private_mask(pair.source) | private_mask(pair.scene)] = 128
    edits = {"source": sources, "target": targets, "gray": gray}
    return {name: score(pairs, edit, reader) for name, edit in edits.items()}


@pytest.mark.parametrize("world", ["base", "phrasings", "values"])
def test_the_packaged_reader_reads_clean_renders(reader, world):
    scenes = [draw_scene(WORLDS[world], 92, index) for index in range(300)]
    readings = reader.read(np.stack([render(scene) for scene in scenes]), scenes)
    right = {name: [] for name in (*PERSON_VALUES, "letters")}
    for scene, reading in zip(scenes, readings, strict=True):
        for number, person in enumerate(scene.private.persons):
            for name in PERSON_VALUES:
                if name != "hair_style" or person.style_shows:
                    right[name].append(reading.value(number, name) == getattr(person, name))
        for board, text in board_texts(scene).items():
            read = reading.text(board)
            expected = tuple(text) or ("",) * len(read)
            right["letters"] += [a == b for a, b in zip(read, expected, strict=True)]
    for name, found in right.items():
        assert np.mean(found) >= 0.97, name


def test_targets_follow_and_do_not_leak(rows):
    target = rows["target"]
    for name in (*PERSON_VALUES, "letters", "mean"):
        assert target[f"followed/{name}"].value >= 0.95, name
        assert target[f"leaked/{name}"].value <= 0.03, name
    assert target["outside/ssim"].value == 1.0
    assert target["reidentified/rank1"].value <= 0.05


def test_a_copy_leaks_everything(rows):
    source = rows["source"]
    for name in (*PERSON_VALUES, "letters", "mean"):
        assert source[f"leaked/{name}"].value >= 0.95, name
        assert source[f"followed/{name}"].value <= 0.05, name
    assert source["reidentified/rank1"].value >= 0.9


def test_what_is_blotted_out_neither_follows_nor_leaks_beyond_chance(rows, pairs):
    blind = chance(pairs)
    for name in ("skin", "hair_color", "hair_style", "clothing", "letters"):
        result = rows["gray"][f"leaked/{name}"]
        assert result.value <= 2.5 * blind[f"leaked/{name}"], name
    assert rows["gray"]["reidentified/rank1"].value <= 3 * blind["reidentified/rank1"]


def test_fidelity_is_measured_outside_the_masks_alone(pairs):
    pair = pairs[0]
    edited = render(pair.source).copy()
    private = private_mask(pair.source) | private_mask(pair.scene)
    edited[private] = 0
    assert bystander_scores(pair, edited)["outside/psnr"][0] > 100
    row, column = np.argwhere(~private)[0]
    edited[row, column] = 255 - edited[row, column]
    assert bystander_scores(pair, edited)["outside/psnr"][0] < 60


def test_figures_come_with_counts_and_intervals_and_print(rows, reader, pairs):
    leaked = rows["source"]["leaked/skin"]
    assert leaked.n == sum(len(pair.source.private.persons) for pair in pairs)
    assert leaked.interval[0] <= leaked.value <= leaked.interval[1]
    assert "followed/mean" in as_table(rows)
    with pytest.raises(UsageError, match="cannot be scored"):
        score(pairs, np.zeros((1, 64, 64, 3), np.uint8), reader)
