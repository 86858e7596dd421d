"""Caches hold for each sample what its task would prepare, whatever becomes of the others."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training.fake_cache import Contents, FakePairs, FakeTask, open_cache, tiny

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.training.cache.content import keys_of
from unsafe2safe.training.cache.rows import Part, batch_of, first_row
from unsafe2safe.training.task import PairBatch
from unsafe2safe.training.views import View

FEW: Contents = {f"p{i}": (i, 10 + i, i % 3) for i in range(9)}

# Few contents, so that pairs share pictures and texts and exchange them from one time to the next.
samples = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
worlds = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdefg"), samples), min_size=1, unique_by=lambda s: s[0]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(worlds)
def test_shuffling_adding_and_deleting_samples_never_mispairs(
    times: list[list[tuple[str, tuple[int, int, int]]]],
) -> None:
    with TemporaryDirectory() as folder:
        for world in times:
            data, failures, _ = open_cache(Path(folder) / "cache", dict(world))
            assert not failures
            assert_is_online(data, dict(world))


def assert_is_online(data, contents: Contents) -> None:
    """Each cached sample, and all of them as a batch, are what the task prepares of the pairs."""
    pairs = FakePairs(contents)
    online = FakeTask().prepare(pairs.collate([pairs[i, 0] for i in range(len(pairs))]))
    batch = data.collate([data[i, 0] for i in range(len(data))])
    assert [key.image_id for key in batch.keys] == list(contents)
    assert torch.equal(batch.prepared.target, online.target)
    assert torch.equal(batch.prepared.source, online.source)
    assert torch.equal(batch.prepared.text.tokens, online.text.tokens)
    assert batch.prepared.weight is None


def test_equal_content_is_encoded_once_and_a_complete_cache_needs_no_encoder(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    task = FakeTask(lambda batch, parts: seen.extend(encoded(batch, parts)))
    doubled = {**FEW, "again": FEW["p0"]}
    _, _, options = open_cache(tmp_path / "cache", doubled, task)
    assert options is not None
    assert options.no_text is None
    assert task.dropped
    # three texts for nine pictures and one that is there twice, in whatever units they come
    assert sorted(seen) == ALL
    again = FakeTask(lambda batch, parts: pytest.fail("encoded again"))
    data, _, options = open_cache(tmp_path / "cache", FEW, again)
    assert options is not None
    assert options.no_text is not None
    assert torch.equal(options.no_text["tokens"], FakeTask.no_text.tokens[0])
    assert_is_online(data, FEW)


def encoded(batch: PairBatch, parts: Collection[str]) -> list[str]:
    """What is encoded of one sample, by what it shows or says."""
    shown = {"source": batch.source, "target": batch.target}
    named = {part: f"{part} {round((float(shown[part].max()) + 1) * 127.5)}" for part in shown}
    return [{**named, "text": batch.edit_instructions[0]}.get(part, part) for part in parts]


# All that is in FEW, once each.
ALL = sorted(
    {f"source {s}" for s, _, _ in FEW.values()}
    | {f"target {t}" for _, t, _ in FEW.values()}
    | {f"text {text}" for _, _, text in FEW.values()}
    | {"mask"}
)


def work(folder: Path, counts: Path) -> None:
    """What each of several processes does; it notes in files what it has encoded."""
    torch.set_num_threads(1)

    def note(batch: PairBatch, parts: Collection[str]) -> None:
        for name in encoded(batch, parts):
            (counts / f"{name}-{os.getpid()}").touch()

    open_cache(folder, FEW, FakeTask(note))


def test_processes_share_one_cache_and_encode_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "counts").mkdir()
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=work, args=(tmp_path / "cache", tmp_path / "counts")) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    counted = [path.name.rpartition("-")[0] for path in (tmp_path / "counts").iterdir()]
    assert sorted(counted) == ALL
    data, _, _ = open_cache(tmp_path / "cache", FEW, FakeTask(lambda *_: pytest.fail("encoded")))
    assert_is_online(data, FEW)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "rows").glob("*.safetensors")}


def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole: list[str] = []
    task = FakeTask(lambda batch, parts: whole.extend(encoded(batch, parts)))
    open_cache(tmp_path / "undisturbed", FEW, task)
    begun_with: list[str] = []

    def die(batch: PairBatch, parts: Collection[str]) -> None:
        begun_with.append(batch.keys[0].image_id)
        if len(begun_with) == 6:
            os._exit(9)

    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=open_cache, args=(tmp_path / "cache", FEW, FakeTask(die)))
    killed.start()
    killed.join(120)
    assert killed.exitcode == 9
    begun = files(tmp_path / "cache")
    assert 1 < len(begun) < len(files(tmp_path / "undisturbed"))
    seen: list[str] = []
    task = FakeTask(lambda batch, parts: seen.extend(encoded(batch, parts)))
    open_cache(tmp_path / "cache", FEW, task)
    assert 0 < len(seen) < len(whole)
    assert files(tmp_path / "cache") == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["flipped", "cut short"])
def test_a_damaged_file_is_told_and_encoded_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_cache(tmp_path / "cache", FEW)
    before = files(tmp_path / "cache")
    path = next(p for p in sorted((tmp_path / "cache/rows").iterdir()) if "of" in p.name[:10])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:-9])
    data, _, _ = open_cache(tmp_path / "cache", FEW)
    assert f"cache file {path} is damaged" in caplog.text
    assert files(tmp_path / "cache") == before
    assert_is_online(data, FEW)


def test_what_is_not_finite_is_left_out_by_name(tmp_path: Path) -> None:
    class Overflowing(FakeTask):
        def prepare_parts(self, batch: PairBatch, parts: Collection[Part]):
            made = super().prepare_parts(batch, parts)
            if "text 1" in batch.edit_instructions and "target" in made:
                made["target"][0, 0, 0, 0] = torch.inf
            return made

    for _ in range(2):  # and a complete cache remembers it
        data, failures, _ = open_cache(tmp_path / "cache", FEW, Overflowing())
        told = "the target's latents cannot be encoded: not finite"
        assert failures == dict.fromkeys(("p1", "p4", "p7"), told)
        assert_is_online(data, {i: c for i, c in FEW.items() if i not in failures})
    with pytest.raises(UsageError, match=r"none of 1 pairs can be encoded \(p1: the target's"):
        open_cache(tmp_path / "cache", {"p1": FEW["p1"]}, Overflowing())


def test_a_picture_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    contents = dict(FEW)

    def change(batch: PairBatch, parts: Collection[str]) -> None:
        contents.update(dict.fromkeys(contents, (99, 99, 99)))

    with pytest.raises(UsageError, match=r"p\d has changed while the cache was made"):
        open_cache(tmp_path / "cache", contents, FakeTask(change))


def test_a_cache_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_cache(tmp_path / "cache", FEW)
    for path in (tmp_path / "cache", tmp_path / "cache/rows"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "cache/rows").glob("*.safe*"))


@dataclass(frozen=True, eq=False)
class Nested:
    tokens: TextEmbedding
    size: Tensor | None = None
    nothing: TextEmbedding | None = None


def test_texts_of_unequal_length_are_filled_up_and_say_so_and_what_is_none_stays_none() -> None:
    rows = [
        first_row(Nested(TextEmbedding(torch.ones(1, n, 2), torch.ones(1, 3)), torch.ones(1, 2)))
        for n in (2, 4)
    ]
    assert set(rows[0]) == {"tokens.tokens", "tokens.pooled", "size"}
    both = batch_of(Nested, rows)
    assert both.tokens.tokens[:, :, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert both.tokens.valid.tolist() == [[True, True, False, False], [True] * 4]
    assert both.tokens.pooled is not None
    assert both.tokens.pooled.shape == (2, 3)
    assert both.nothing is None
    with pytest.raises(ValueError, match="some samples of a batch have"):
        batch_of(Nested, [rows[0], {k: v for k, v in rows[1].items() if k != "size"}])


def test_a_key_follows_what_the_editor_sees_and_reads() -> None:
    def keys(contents: tuple[int, int, int], *, mask: float = 0.0, weight: float = 0.0, **choice):
        pair = FakePairs({"p": contents}).load(0, View())
        pair.mask[0, 0] = mask
        return keys_of(pair, tiny(**choice), weight)

    def differing(first, second) -> set[str]:
        return {part for part in first if first[part] != second[part]} - {"sample"}

    plain = keys((1, 2, 3))
    assert differing(plain, keys((1, 2, 3))) == set()
    assert differing(plain, keys((9, 2, 3))) == {"source"}
    assert differing(plain, keys((1, 9, 3))) == {"target"}
    assert differing(plain, keys((1, 2, 9))) == {"text"}
    assert differing(plain, keys((1, 2, 3), mask=1.0)) == set()
    assert differing(keys((1, 2, 3), weight=2.0), keys((1, 2, 3), mask=1.0, weight=2.0)) == {"mask"}
    hidden = keys((1, 2, 3), source="blank")
    assert differing(hidden, keys((1, 2, 3), mask=1.0, source="blank")) == {"source"}


def test_nothing_is_taken_over_from_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").touch()
    with pytest.raises(UsageError, match="holds files, and no cache of ours"):
        open_cache(tmp_path, FEW)
    open_cache(tmp_path / "cache", FEW)
    (tmp_path / "cache/cache.json").write_text("{")
    with pytest.raises(UsageError, match=r"cache\.json is damaged; delete the folder"):
        open_cache(tmp_path / "cache", FEW)
    shutil.rmtree(tmp_path / "cache")
    open_cache(tmp_path / "cache", FEW)
