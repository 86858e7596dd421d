"""Pairs of a user's own, in folders that ``datasets`` writes and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture
from training.make_pairs import picture
from training.test_train_job import losses

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import Box
from unsafe2safe.jobs.train import run
from unsafe2safe.training.pair_folder import FolderPairs, is_pair_folder

COUNT = 4


def columns(**others: Any) -> dict[str, Any]:
    sources = [picture(index, 60 + 30 * (index % 2), 75) for index in range(COUNT)]
    content = {
        "source": [Picture.fromarray(pixels) for pixels in sources],
        "target": [Picture.fromarray(pixels[..., ::-1]) for pixels in sources],
        "edit_instruction": [f"give person {index} red hair" for index in range(COUNT)],
    }
    return content | others


def save(folder: Path, content: dict[str, Any], *, as_parquet: bool = False) -> Path:
    kinds = {
        name: Image() if isinstance(values[0], Picture.Image) else Value("string")
        for name, values in content.items()
        if not isinstance(values[0], list)
    }
    table = Dataset.from_dict({name: content[name] for name in kinds}, features=Features(kinds))
    for name in set(content) - set(kinds):
        table = table.add_column(name, content[name])
    if as_parquet:
        folder.mkdir(parents=True)
        table.to_parquet(folder / "train.parquet")
    else:
        table.save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("as_parquet", [False, True])
def test_rows_are_pairs_under_the_names_of_the_field(as_parquet: bool, tmp_path: Path) -> None:
    content = columns()
    renamed = {
        "original_image": content["source"],
        "edited_image": content["target"],
        "edit_prompt": content["edit_instruction"],
        "caption": [f"person {index}" for index in range(COUNT)],
        "image_id": ["d", "b", "a", "c"],
    }
    folder = save(tmp_path / "pairs", renamed, as_parquet=as_parquet)
    assert is_pair_folder(folder)
    assert not is_pair_folder(tmp_path)
    data = FolderPairs(folder, tmp_path / "library", 64)
    assert [pair.image_id for pair in data.pairs] == ["a", "b", "c", "d"]
    for index, row in enumerate((2, 1, 3, 0)):
        loaded = data[index, 0]
        expected = content["source"][row].resize((64, 64), Picture.Resampling.LANCZOS)
        assert np.array_equal(loaded.source, np.asarray(expected))
        assert np.array_equal(loaded.target, np.asarray(expected)[..., ::-1])
        assert loaded.edit_instruction == f"give person {row} red hair"
        assert loaded.public_caption == f"person {row}"
    assert not data.has_masks


def test_masks_come_as_pictures_or_as_boxes(tmp_path: Path) -> None:
    masks, boxes = [], []
    for source in columns()["source"]:
        mask = np.zeros((source.height, source.width), np.uint8)
        mask[10:20, 30:40] = 255
        masks.append(Picture.fromarray(mask).convert("RGB"))
        boxes.append([{"box": [30.0, 10.0, 10.0, 10.0]}])
    drawn = FolderPairs(save(tmp_path / "a", columns(mask=masks)), tmp_path / "library", 64)
    told = FolderPairs(save(tmp_path / "b", columns(regions=boxes)), tmp_path / "library", 64)
    assert drawn.has_masks
    assert told.has_masks
    assert told.pairs[0].regions[0].box == Box(30, 10, 10, 10)
    for index in range(COUNT):
        assert drawn[index, 0].mask.any()
        assert np.array_equal(drawn[index, 0].mask, told[index, 0].mask)


def arguments(folder: Path, output: Path, *overrides: str) -> Any:
    own = [f"pairs={folder}", f"paths.private={output.parent / 'private'}", "engine.threads=1"]
    return load("train", [*own, "editor.init_seed=0", f"output_dir={output}", *overrides])


@pytest.mark.slow
def test_train_py_takes_such_a_folder_and_views_of_it_cached_or_not(tmp_path: Path) -> None:
    boxes = [[{"box": [30.0, 10.0, 10.0, 10.0]}]] * COUNT
    folder = save(tmp_path / "my-pairs", columns(regions=boxes))
    views = ["task.flip=0.5", "task.crop=0.8", "task.crops=2", "task.buckets=true"]
    steps = ["trainer.max_steps=6", "trainer.batch_size=2", "task.mask_weight=2.0"]
    for mode in ("off", "on"):
        run(arguments(folder, tmp_path / mode, *views, *steps, f"cache.mode={mode}"))
    online, cached = ([loss for _, loss, _ in losses(tmp_path / mode)] for mode in ("off", "on"))
    assert cached == pytest.approx(online, abs=1e-5)
    state = read_run(tmp_path / "on")
    assert state is not None
    assert state["dataset"].startswith("my-pairs-")
    assert state["counts"]["pairs"] == COUNT
    (cache,) = (tmp_path / "private/caches").iterdir()
    assert cache.name.startswith("my-pairs-tiny-")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["editor.source=blank"], r"editor\.source needs masks: pairs=.* has no column of them"),
        (["task.mask_weight=1"], r"task\.mask_weight needs masks"),
        (["editor.captions=combined"], r"4 of 4 pairs have no combined caption"),
        (["task.crop=0.9", "cache.mode=on"], r"task\.crop=0\.9 shows another crop at each visit"),
    ],
)
def test_what_a_folder_lacks_is_told(overrides: list[str], told: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "pairs", columns())
    with pytest.raises(UsageError, match=told):
        run(arguments(folder, tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    content = columns()
    del content["target"]
    folder = save(tmp_path / "pairs", content)
    with pytest.raises(UsageError, match=r"has no column 'target' \(or edited_image, .*it has "):
        run(arguments(folder, tmp_path / "run"))
