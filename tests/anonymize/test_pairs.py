"""Which verified edits become training pairs, why the others do not, and what a pair holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import save_tiny_clip
from transformers import CLIPModel, CLIPProcessor

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.pair_filters import EditedPair, NoFilter, PairFilter
from unsafe2safe.anonymize.pairs import PairWriter, UnitPairs, finish_pairs, pairs_told
from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import ConfigError, UsageError
from unsafe2safe.core.records import (
    Attempt,
    Box,
    Category,
    Check,
    ImageRecord,
    Outcome,
    OutcomeState,
    Pair,
    PrivacyFlag,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import read_parts, write_records
from unsafe2safe.data.decode import decode_file
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.vision.perception import Perception

SIDE = 48
FACE = Box(12, 12, 16, 16)
TOLD = Provenance("test")


def candidate_of(folder: Path, name: str, seed: int) -> Candidate:
    """A drawn picture in which a face was found."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return Candidate(
        ImageRecord(name, folder / name),
        decode_file(folder / name, name),
        Triplet(
            name, PrivacyFlag.UNSAFE, TripletState.COMPLETE, "a person outdoors",
            "give the person red hair", None, "face", TOLD,
        ),
        [Region(name, FACE, Category.FACE, 0.9, "test")],
        None,  # type: ignore[arg-type]
    )  # fmt: skip


def outcome_of(
    name: str,
    state: OutcomeState = OutcomeState.ANONYMIZED,
    outside: float | None = 0.99,
    unchanged: float = 0.0,
    strength: int = 0,
) -> Outcome:
    checks = [Check("unchanged_regions", unchanged, 0.0, passed=True)]
    if outside is not None:
        checks.append(Check("outside_ssim", outside, 0.8, passed=True))
    margin = 0.3 * (1 + strength / 2)
    attempts = (Attempt("editor", strength, 0, tuple(checks), margin=margin),)
    published = name if state.publishable else None
    return Outcome(name, state, "", published, "editor", "", attempts, "", "", TOLD)


@component
class RefusesSome(PairFilter):
    """Refuses dark edits, raises for white ones."""

    complaint = "too dark"

    def check(self, pairs, perception):
        means = [float(pair.edited.mean()) for pair in pairs]
        if max(means) == 255:
            raise RuntimeError("white")
        return [Check("mean", mean, 50.0, mean > 50) for mean in means]


GREYS = {"dark.png": 10, "white.png": 255}


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception(load("anonymize").vision, 1)


@pytest.fixture
def world(tmp_path):
    """Candidates by name, each published, with what their outcomes say."""
    photos = tmp_path / "photos"
    photos.mkdir()
    outcomes = [
        outcome_of("kept.png"),
        outcome_of("stronger.png", strength=2),
        outcome_of("safe.png", OutcomeState.SAFE),
        outcome_of("review.png", OutcomeState.NEEDS_REVIEW),
        outcome_of("metadata.png"),
        outcome_of("unchanged.png", unchanged=0.5),
        outcome_of("outside.png", outside=0.85),
        outcome_of("all_masked.png", outside=None),
        outcome_of("dark.png"),
        outcome_of("white.png"),
    ]
    candidates = {
        outcome.image_id: candidate_of(photos, outcome.image_id, seed)
        for seed, outcome in enumerate(outcomes)
    }
    candidates["metadata.png"].regions.clear()
    (tmp_path / "published").mkdir()
    for name in candidates:
        grey = np.full((SIDE, SIDE, 3), GREYS.get(name, 128), np.uint8)
        Image.fromarray(grey).save(tmp_path / "published" / name)
    unreadable = outcome_of("unreadable.png", OutcomeState.FAILED)  # never became a candidate
    return tmp_path, [*outcomes, unreadable], candidates


def keep(run: Path, number: int, pairs: UnitPairs) -> None:
    path = run / "pairs" / f"part-{number:06d}.parquet"
    write_records(path, Pair, pairs.pairs, notes=pairs.notes)


def test_what_was_redacted_in_the_end_teaches_nothing_but_redaction(world, perception):
    run, (first, *_), candidates = world
    redacted = replace(first, editor="redact")
    for redacts, reason in ((False, "redacted"), (True, "written")):
        writer = PairWriter(run, load("anonymize"), NoFilter(), perception, redacts=redacts)
        pairs = writer.unit()
        pairs.add([redacted], candidates)
        keep(run, 0, pairs)
        assert finish_pairs(run)[reason] == 1


def test_each_image_is_a_pair_or_counted_under_its_reason(world, perception):
    run, outcomes, candidates = world
    writer = PairWriter(run, load("anonymize"), RefusesSome(), perception, redacts=False)
    for number, batch in enumerate((outcomes[:4], outcomes[4:])):  # two units
        pairs = writer.unit()
        pairs.add(batch, candidates)
        keep(run, number, pairs)
    counts = finish_pairs(run)
    assert counts == {
        "written": 2, "not_published": 2, "safe": 1, "not_edited": 1, "redacted": 0,
        "unchanged_region": 1,
        "unfaithful_outside": 2, "below_filter": 1, "filter_failed": 1,
    }  # fmt: skip
    assert sum(counts.values()) == len(outcomes)
    assert pairs_told(counts, "too dark") == (
        "2 written; 1 too dark, 2 unfaithful outside, 1 with an unchanged region, "
        "2 not published, 1 safe, 1 with nothing edited, 1 that the filter could not measure"
    )
    kept, stronger = read_parts(run / "pairs", Pair)
    assert (kept.image_id, stronger.image_id) == ("kept.png", "stronger.png")
    assert {check.name: check.value for check in kept.scores} == {"outside_ssim": 0.99, "mean": 128}
    assert kept.mask is None


def test_masks_are_what_was_edited_and_leftovers_go(world, perception):
    run, outcomes, candidates = world
    config = load("anonymize", ["pairs.masks=true"])
    stray = run / "pairs" / "masks" / "gone.png.png"
    stray.parent.mkdir(parents=True)
    stray.touch()
    pairs = PairWriter(run, config, NoFilter(), perception, redacts=False).unit()
    pairs.add(outcomes[:2], candidates)
    keep(run, 0, pairs)
    finish_pairs(run)
    assert not stray.exists()
    margins = (config.margin, 2 * config.margin)
    for pair, margin in zip(read_parts(run / "pairs", Pair), margins, strict=True):
        drawn = np.asarray(Image.open(run / pair.mask))
        asked = np.ceil(candidates[pair.image_id].mask(config, margin) * 255) / 255
        assert np.allclose(drawn, asked * 255)
        assert 0 < asked.mean() < 1


def test_a_soft_rim_counts_as_edited(world, perception, monkeypatch):
    run, outcomes, candidates = world
    rim = np.full((SIDE, SIDE), 1e-4, np.float32)
    monkeypatch.setattr(Candidate, "mask", lambda *_: rim)
    config = load("anonymize", ["pairs.masks=true"])
    pairs = PairWriter(run, config, NoFilter(), perception, redacts=False).unit()
    pairs.add(outcomes[:1], candidates)
    keep(run, 0, pairs)
    (pair,) = read_parts(run / "pairs", Pair)
    assert np.asarray(Image.open(run / pair.mask)).min() == 1


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def pair_filter(*overrides: str) -> PairFilter:
    return build(load("anonymize", overrides).pairs.filter, "pairs.filter", PairFilter)


def cosine(folder: Path, image: np.ndarray, text: str) -> float:
    """Of one image and one text, by the library's own towers."""
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(
        text=[text], images=[Image.fromarray(image)], return_tensors="pt",
        truncation=True, max_length=16,
    )  # fmt: skip
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        read = model.get_text_features(input_ids=inputs["input_ids"]).pooler_output
    return torch.nn.functional.cosine_similarity(seen, read).item()


def test_clip_keeps_pairs_whose_similarity_to_the_text_has_not_fallen(clip_folder, perception):
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(6)]
    captions = ["a person outdoors", "two cats", "a very long text " * 30]
    triplets = [
        Triplet("x", PrivacyFlag.UNSAFE, TripletState.COMPLETE, caption, "red", None, "", TOLD)
        for caption in captions
    ]
    pairs = [
        EditedPair(images[2 * i], lambda i=i: images[2 * i + 1], triplet)
        for i, triplet in enumerate(triplets)
    ]
    chosen = pair_filter("pair_filter=clip", f"pairs.filter.model={clip_folder}")
    chosen.load()
    expected = []
    for i, caption in enumerate(captions):
        before, after = (cosine(clip_folder, image, caption) for image in images[2 * i : 2 * i + 2])
        expected.append(after / before if before > 0 else 0.0)
    assert any(expected)  # else this proves nothing
    found = chosen.check(pairs, perception)
    for check, ratio in zip(found, expected, strict=True):
        assert check.value == pytest.approx(ratio, abs=1e-4)
        assert check.passed == (check.value > 0.7)
        assert (check.name, check.threshold) == ("clip_ratio", 0.7)
    same = [EditedPair(images[0], lambda: images[0], triplet) for triplet in triplets]
    assert all(check.value in (0.0, pytest.approx(1.0)) for check in chosen.check(same, perception))


def test_clip_reads_the_instruction_where_it_is_asked_to(clip_folder, perception):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    triplet = Triplet(
        "x", PrivacyFlag.UNSAFE, TripletState.COMPLETE, "a cat", "red", "a red cat", "", TOLD
    )
    chosen = pair_filter(
        "pair_filter=clip", f"pairs.filter.model={clip_folder}", "pairs.filter.text=target"
    )
    read = {chosen._text(replace(triplet, combined_caption=text)) for text in ("a red cat", None)}
    assert read == {"a red cat", "a cat red"}
    (check,) = chosen.check([EditedPair(image, lambda: image[::-1], triplet)], perception)
    before = cosine(clip_folder, image, "a red cat")
    after = cosine(clip_folder, image[::-1].copy(), "a red cat")
    assert check.value == pytest.approx(after / before if before > 0 else 0.0, abs=1e-4)


def test_weights_count_by_what_they_are_and_missing_ones_are_told_before_work(
    clip_folder, tmp_path
):
    chosen = pair_filter("pair_filter=clip", f"pairs.filter.model={clip_folder}")
    told = chosen.weights_content()["pairs.filter.model"]
    assert str(clip_folder) not in told
    model = CLIPModel.from_pretrained(clip_folder)
    model.logit_scale.data += 1
    model.save_pretrained(tmp_path / "other")
    other = pair_filter("pair_filter=clip", f"pairs.filter.model={tmp_path / 'other'}")
    assert other.weights_content()["pairs.filter.model"] != told
    with pytest.raises(UsageError, match="no folder"):
        pair_filter("pair_filter=clip", f"pairs.filter.model={tmp_path / 'no'}").weights_content()
    with pytest.raises(UsageError, match="model="):
        other.load()  # no processor beside it
    with pytest.raises(ConfigError, match="did you mean 'least_ratio'"):
        pair_filter("pair_filter=clip", "+pairs.filter.least_rato=1")


def test_the_stand_in_tells_a_ruined_picture_from_a_redacted_one(perception):
    photo = np.asarray(Image.open(photos_folder() / "coffee.jpg").convert("RGB"))
    redacted = photo.copy()
    redacted[100:160, 200:280] = 128
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
    chosen = pair_filter("pair_filter=features")
    triplet = Triplet("x", PrivacyFlag.UNSAFE, TripletState.COMPLETE, "", "", None, "", TOLD)
    found = chosen.check(
        [EditedPair(photo, lambda e=e: e, triplet) for e in (photo, redacted, noise)], perception
    )
    same, kept, ruined = found
    assert same.value == pytest.approx(1.0, abs=1e-5)
    assert kept.passed
    assert not ruined.passed
    assert same.name == "feature_similarity"  # never the paper's name
    assert "not the paper's" in chosen.complaint
