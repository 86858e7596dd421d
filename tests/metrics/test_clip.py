from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from metrics.pairs import noise, pair, plain_pair
from PIL import Image
from tiny_clip import save_tiny_clip
from transformers import CLIPModel, CLIPProcessor

from unsafe2safe.core.config.compose import load
from unsafe2safe.evaluation.feature_store import FeatureStore
from unsafe2safe.metrics.base import Captions
from unsafe2safe.metrics.clip import ClipSimilarity, DirectionalClip
from unsafe2safe.metrics.features import ImageFeatures
from unsafe2safe.vision.clip import ClipEmbedder, clip_embedder

BOTH = Captions("a person in a park", "Anna Weber, with red hair, in the park")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def by_library(folder):
    """Embeddings of one image or text by the library's own towers, not scaled."""
    model, processor = (
        CLIPModel.from_pretrained(folder).eval(),
        CLIPProcessor.from_pretrained(folder),
    )

    def embed(one):
        with torch.no_grad():
            if isinstance(one, str):
                read = processor(text=[one], return_tensors="pt", truncation=True, max_length=16)
                return model.get_text_features(input_ids=read["input_ids"]).pooler_output[0]
            pixels = processor(images=[Image.fromarray(one)], return_tensors="pt")["pixel_values"]
            return model.get_image_features(pixel_values=pixels).pooler_output[0]

    return lambda one: torch.nn.functional.normalize(embed(one), dim=0)


def sample(original, edited, captions=BOTH):
    return replace(plain_pair(original, edited), captions=captions)


def test_similarity_is_of_the_edited_image_with_the_public_caption(folder, by_library):
    metric = ClipSimilarity(model=str(folder))
    samples = [
        sample(noise(seed=i), noise(40 + i, 50, seed=i + 5), Captions(text, "Anna"))
        for i, text in enumerate(["two cats", "a very long text " * 9])
    ]
    for made, score in zip(samples, metric.measure(samples), strict=True):
        expected = by_library(made.after.pixels) @ by_library(made.captions.public)
        assert score.values[0] == pytest.approx(float(expected), abs=1e-5)


def test_direction_is_from_private_to_public_caption_and_from_original_to_edited(
    folder, by_library
):
    made = sample(noise(), noise(seed=1))
    image = by_library(made.after.pixels) - by_library(made.original.pixels)
    text = by_library(BOTH.public) - by_library(BOTH.private)
    expected = torch.nn.functional.cosine_similarity(image, text, dim=0)
    metric = DirectionalClip(model=str(folder))
    assert metric.measure([made])[0].values[0] == pytest.approx(float(expected), abs=1e-4)
    back = sample(noise(seed=1), noise())
    assert metric.measure([back])[0].values[0] == pytest.approx(-float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("captions", "applies"),
    [
        (BOTH, (1, 1)),
        (Captions("a person", ""), (1, 0)),
        (Captions("", "Anna"), (0, 0)),
        (Captions("a cat", "a cat "), (1, 0)),
        (Captions(), (0, 0)),
    ],
)
def test_a_caption_that_is_missing_or_equal_does_not_apply(folder, captions, applies):
    for metric_class, due in zip((ClipSimilarity, DirectionalClip), applies, strict=True):
        metric = metric_class(model=str(folder))
        score = metric.measure([sample(noise(), noise(seed=1), captions)])[0]
        assert (len(score.values), score.not_applicable) == (due, 1 - due)
        gone = metric.measure([sample(noise(), None, captions)])[0]
        assert (gone.missing, gone.not_applicable) == (due, 1 - due)


def test_an_image_that_did_not_change_has_no_direction(folder):
    score = DirectionalClip(model=str(folder)).measure([sample(noise(), noise())])[0]
    assert (score.values, score.not_applicable) == ((), 1)


def test_swapped_colour_channels_are_another_picture(folder):
    clip = clip_embedder(str(folder), "", "cpu", "float32")
    picture = noise()
    picture[..., 0] //= 4
    first, second = clip.images([picture, picture[..., ::-1]])
    assert first @ second < 0.9999


def test_one_clip_serves_all_metrics_and_each_image_is_embedded_once(folder, monkeypatch):
    seen = []
    real = ClipEmbedder.images
    monkeypatch.setattr(
        ClipEmbedder, "images", lambda self, images: seen.extend(images) or real(self, images)
    )
    first = sample(noise(), noise(seed=1))
    other_row = replace(first, edited=sample(noise(), noise(seed=2)).edited)
    similarity, direction = ClipSimilarity(model=str(folder)), DirectionalClip(model=str(folder))
    assert similarity._clip is direction._clip
    for made in (first, other_row):
        similarity.measure([made])
        direction.measure([made])
    assert len(seen) == 3


def test_embeddings_outlive_the_process_where_features_do(folder, tmp_path, monkeypatch):
    metric, memory = DirectionalClip(model=str(folder)), FeatureStore(tmp_path, "set")

    def row():
        before, after = (
            ImageFeatures(noise(seed=seed), SimpleNamespace(), memory) for seed in (0, 1)
        )
        return replace(pair(before, after), captions=BOTH)

    first = metric.measure([row()])[0].values
    real = metric._clip
    monkeypatch.setattr(ClipEmbedder, "images", lambda *_: pytest.fail("embedded again"))
    assert metric.measure([row()])[0].values == first
    other = folder / ".." / "other"
    model = CLIPModel.from_pretrained(folder)
    model.visual_projection.weight.data += 0.01
    model.save_pretrained(other)
    CLIPProcessor.from_pretrained(folder).save_pretrained(other)
    changed = DirectionalClip(model=str(other))._clip
    assert changed.version != real.version  # other weights are another model
    assert clip_embedder(str(folder), "", "cpu", "float32").version == real.version
    memory.__exit__()


@pytest.mark.timeout(60)  # whoever asks the hub asks it again and again
def test_missing_weights_are_told_without_asking_the_hub_or_telling_a_place(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    told = ClipSimilarity(model="openai/clip-vit-large-patch14").unavailable()
    assert "not in the local cache; download it once with" in told
    assert "openai/clip-vit-large-patch14" in told
    (tmp_path / "Anna").mkdir()
    for broken in (tmp_path / "Anna", tmp_path / "Anna" / "none"):
        told = DirectionalClip(model=str(broken)).unavailable()
        assert told
        assert str(tmp_path) not in told
        assert "\n" not in told


def test_a_local_folder_is_available(folder):
    assert ClipSimilarity(model=str(folder)).unavailable() == ""


def test_the_papers_model_is_the_default():
    settings = load("evaluate", ["metrics=[paper]", "metrics.clip_similarity.model=x"]).metrics
    assert settings["directional_clip"]["model"] == "x"  # one setting for both
    plain = load("evaluate", ["metrics=[paper]"]).metrics
    assert plain["clip_similarity"]["model"] == ClipSimilarity().model
    assert np.all([name in plain for name in ("lpips", "kid", "fid", "directional_clip")])
