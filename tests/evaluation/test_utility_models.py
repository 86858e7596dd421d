"""The heavy protocols on tiny models of the true classes, through the code that users run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backends import tiny_models
from evaluation import tiny_utility_models as tiny
from evaluation.utility_world import CLASSES, texture

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.records import ImageRecord
from unsafe2safe.data.synthetic.source import SyntheticSource
from unsafe2safe.evaluation.utility.base import Bench
from unsafe2safe.evaluation.utility.captioning import Captioning
from unsafe2safe.evaluation.utility.classification import Classification, quarters
from unsafe2safe.evaluation.utility.detection import Detection
from unsafe2safe.evaluation.utility.examples import TEST, Example
from unsafe2safe.evaluation.utility.loops import seeded
from unsafe2safe.evaluation.utility.vit import layer_groups, load_vit
from unsafe2safe.evaluation.utility.vqa import Vqa
from unsafe2safe.jobs.evaluate_utility import build_tasks
from unsafe2safe.vision.arrays import resized
from unsafe2safe.vision.perception import Perception

LABEL = "zebra-label"


def bench(source=None):
    source = source or SimpleNamespace(name="made")
    settings = load("evaluate").vision
    return Bench(0, Perception(settings, 2), source, source)


def examples(kinds, numbers, row="original", captions=("a {} on a wall", "{} everywhere")):
    made = []
    for kind in kinds:
        for number in numbers:
            name = f"{kind}/{1000 * CLASSES.index(kind) + number:012d}.png"
            record = ImageRecord(
                name, None, label=kind, captions=tuple(text.format(kind) for text in captions)
            )
            made.append(
                Example(record, row, lambda k=kind, n=number: resized(texture(k, n), 32, 32))
            )
    return made


TRAIN = examples(("lines", "discs"), range(8))
TESTED = examples(("lines", "discs"), range(20, 24), row=TEST)


def settings_of(task, **changes):
    """The task with the settings that ship, but for ``changes``."""
    section = {f"utility.{task}.{key}": value for key, value in changes.items()}
    made = load(
        "evaluate",
        [f"suite.utility=[{task}]", *(f"{key}={value}" for key, value in section.items())],
    )
    return build_tasks(made)[task]


def accuracy(items):
    return np.mean([true == told for true, told in items])


VIT = {"epochs": 30, "batch_size": 4, "accumulation": 2, "augment_operations": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def test_a_vit_learns_from_originals_and_not_from_grey(folder):
    task = settings_of(
        "classification", mode="finetune", model=tiny.vit(folder / "vit"), layer_decay=1.0,
        learning_rate=3e-3, **VIT,
    )  # fmt: skip
    assert task.unavailable(bench()) == ""
    assert accuracy(task.measure(TRAIN, TESTED, 0, bench())) > 0.7
    flat = [Example(e.record, "grey", lambda: np.full((32, 32, 3), 127, np.uint8)) for e in TRAIN]
    assert accuracy(task.measure(flat, TESTED, 0, bench())) == 0.5


def test_a_masked_autoencoder_is_fine_tuned_alike_for_the_same_seed(folder):
    model = tiny.masked_autoencoder(folder / "mae")
    task = settings_of("classification", mode="finetune", model=model, **VIT | {"epochs": 2})
    first = task.measure(TRAIN, TESTED, 1, bench())
    assert task.measure(TRAIN, TESTED, 1, bench()) == first
    assert {true for true, _ in first} == {0, 1}


def test_the_encoder_of_a_masked_autoencoder_is_taken_over(folder):
    from safetensors.torch import load_file

    task = Classification(mode="finetune", model=str(tiny.masked_autoencoder(folder / "mae2")))
    model = load_vit(task._vit_settings(), 5)
    assert model.classifier.out_features == 5
    saved = load_file(folder / "mae2" / "model.safetensors")
    name = "vit.embeddings.patch_embeddings.projection.weight"
    assert torch.equal(model.state_dict()[name], saved[name])


def test_lower_layers_learn_more_slowly(folder):
    task = Classification(mode="finetune", model=str(tiny.vit(folder / "vit2")))
    model = load_vit(task._vit_settings(), 3)
    groups = layer_groups(model, 1.0, 0.5)
    assert sorted(group["lr"] for group in groups) == [0.125, 0.25, 0.5, 1.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    top = next(group["params"] for group in groups if group["lr"] == 1.0)
    assert any(parameter is model.classifier.weight for parameter in top)


def test_quarters_cover_the_frame_and_overlap():
    image = np.arange(20 * 12 * 3, dtype=np.uint8).reshape(20, 12, 3)
    parts = quarters(image)
    assert len(parts) == 4
    assert np.array_equal(parts[0][0, 0], image[0, 0])
    assert np.array_equal(parts[3][-1, -1], image[-1, -1])
    assert all(part.shape[0] > 10 and part.shape[1] > 6 for part in parts)


class Heard:
    """Everything that a tokenizer was given, while it is watched."""

    def __init__(self, monkeypatch):
        from transformers import PreTrainedTokenizerBase

        self.texts = []
        real = PreTrainedTokenizerBase.__call__

        def listening(tokens, text=None, *arguments, **settings):
            self.texts.append(str(text))
            return real(tokens, text, *arguments, **settings)

        monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", listening)


def labelled(made):
    """The same pictures under a label that stands in no caption and no question."""
    return [
        Example(
            ImageRecord(e.image_id, None, label=LABEL, captions=e.record.captions), e.row, e.read
        )
        for e in made
    ]


@pytest.mark.slow
def test_blip2_learns_captions_and_hears_no_label(folder, monkeypatch):
    heard = Heard(monkeypatch)
    task = settings_of(
        "captioning", model=tiny.blip2(folder / "blip2"), trainable="all", epochs=22,
        batch_size=4, accumulation=1, learning_rate=1e-2, beams=2, max_new_tokens=16,
    )  # fmt: skip
    assert task.unavailable(bench()) == ""
    train, test = (
        labelled(examples(("lines", "discs"), numbers, row, ("a wall of {}",)))
        for numbers, row in ((range(6), "run"), (range(20, 22), TEST))
    )
    assert all(task.usable(example, bench()) for example in train)
    items = task.measure(train, test, 0, bench())
    figures = task.figures(task.pack(items), np.arange(len(items)))
    assert figures["bleu4"] > 0.3
    assert heard.texts
    assert not [text for text in heard.texts if LABEL in text]


def test_a_blip2_with_an_encoder_decoder_is_trained_too(folder):
    model = tiny.blip2(folder / "blip2t5", encoder_decoder=True)
    task = Captioning(
        model=str(model), trainable="all", epochs=12, batch_size=4, accumulation=1,
        learning_rate=5e-2, beams=2, max_new_tokens=4,
    )  # fmt: skip
    with seeded(0):
        captioner = task._load()
        images, captions = [e.read() for e in TESTED[:2]], ["a dog"] * 2
        before = float(captioner.loss(images, captions).detach())
        task._train(captioner, TRAIN[:8], [("a dog",)] * 8, 0, bench())
        assert float(captioner.loss(images, captions).detach()) < before / 2
        assert len(task._tell(captioner, TESTED[:2])) == 2


def test_the_frozen_parts_of_blip2_stay_as_they_are(folder):
    task = Captioning(model=str(tiny.blip2(folder / "blip2b")), epochs=1, batch_size=4)
    captioner = task._load()
    before = {name: p.clone() for name, p in captioner.model.named_parameters()}
    task._train(captioner, TRAIN[:4], [("a wall",)] * 4, 0, bench())
    changed = {
        name for name, p in captioner.model.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed
    assert all(n.startswith(("query_tokens", "qformer", "language_projection")) for n in changed)


def test_captions_that_nobody_wrote_are_not_learned():
    bare = examples(("lines",), range(1), captions=())[0]
    assert not Captioning().usable(bare, bench())
    public = Example(bare.record, "", bare.read, lambda: "a public caption")
    assert Captioning(captions="public").usable(public, bench())
    assert not Captioning().usable(public, bench())


@pytest.fixture(scope="module")
def okvqa(folder):
    """Questions about TRAIN and TESTED, whose answer is the texture."""
    questions, annotations = [], []
    for number, example in enumerate([*TRAIN, *TESTED]):
        image = int(example.image_id[-16:-4])
        kind = example.record.label
        questions.append({"question_id": number, "image_id": image, "question": "What is it?"})
        answers = [{"answer": kind, "raw_answer": kind, "answer_id": i} for i in range(10)]
        annotations.append({"question_id": number, "image_id": image, "answers": answers})
    paths = {}
    for name, content in (("questions", questions), ("annotations", annotations)):
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps({name: content, "info": {"version": "1.1"}}))
    return paths


@pytest.mark.slow
def test_qwen_learns_answers_through_lora_and_hears_no_label(folder, okvqa, monkeypatch):
    heard = Heard(monkeypatch)
    task = settings_of(
        "vqa", model=tiny_models.build("qwen3_vl", folder / "qwen"), epochs=9, batch_size=4,
        accumulation=1, learning_rate=5e-2, image_long_side=32, **okvqa,
    )  # fmt: skip
    assert task.unavailable(bench()) == ""
    train, test = labelled(TRAIN), labelled(TESTED)
    assert all(task.usable(example, bench()) for example in [*train, *test])
    items = task.measure(train, test, 0, bench())
    assert len(items) == len(test)
    assert {asked for asked, _, _ in items} == {1}
    assert task.figures(task.pack(items), np.arange(len(items)))["okvqa"] >= 0.25
    assert any("What is it?" in text for text in heard.texts)
    assert not [text for text in heard.texts if LABEL in text]


def test_only_the_lora_of_queries_and_values_is_trained(folder, okvqa):
    task = settings_of(
        "vqa", model=tiny_models.build("qwen3_vl", folder / "qwen2"), epochs=1, batch_size=8,
        accumulation=1, **okvqa,
    )  # fmt: skip
    answerer = task._load()
    trained = {name for name, p in answerer.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == {"q_proj", "v_proj"}
    before = {n: p.clone() for n, p in answerer.model.named_parameters()}
    task._train(answerer, TRAIN[:8], 0)
    changed = {n for n, p in answerer.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert changed <= trained


def test_a_base_in_four_bits_is_trained_too(folder, okvqa):
    task = settings_of(
        "vqa", model=tiny_models.build("qwen3_vl", folder / "qwen4"), epochs=1, batch_size=4,
        accumulation=1, quantization="nf4", **okvqa,
    )  # fmt: skip
    answerer = task._load()
    assert any(type(module).__name__ == "Linear4bit" for module in answerer.model.modules())
    before = {n: p.clone() for n, p in answerer.model.named_parameters() if "lora_" in n}
    task._train(answerer, TRAIN[:4], 0)
    after = dict(answerer.model.named_parameters())
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_without_questions_or_weights_the_reason_is_told_without_paths(folder, okvqa):
    assert "utility.vqa.questions" in Vqa().unavailable(bench())
    for task in (
        settings_of("vqa", model=folder / "nowhere", **okvqa),
        settings_of("captioning", model=folder / "nowhere"),
        settings_of("classification", mode="finetune", model=folder / "nowhere"),
        settings_of("detection", mode="finetune", weights=folder / "nowhere.pt"),
    ):
        reason = task.unavailable(bench(SyntheticSource(name="synthetic", size=2)))
        assert "nowhere" in reason
        assert str(folder) not in reason
    (folder / "odd.json").write_text("{}")
    odd = settings_of("vqa", model="x", **okvqa | {"questions": folder / "odd.json"})
    assert "OK-VQA" in odd.unavailable(bench())


@pytest.fixture(scope="module")
def scenes():
    return SyntheticSource(name="synthetic", size=8, side=64)


def scene_examples(source, row, changed=lambda pixels: pixels):
    return [
        Example(record, row, lambda r=record: changed(source.decode(r).pixels))
        for record in source.records()
    ]


def test_a_detector_is_trained_with_the_boxes_of_scenes(scenes):
    task = settings_of(
        "detection", mode="finetune", model="ssdlite320_mobilenet_v3_large", epochs=1,
        batch_size=3, accumulation=1,
    )  # fmt: skip
    at = bench(scenes)
    assert task.unavailable(at) == ""
    train = scene_examples(scenes, "run")[:3]
    test = scene_examples(scenes, TEST)[3:5]
    items = task.measure(train, test, 0, at)
    assert len(items) == 2
    assert set(task.figures(task.pack(items), np.arange(2))) == {"map", "map50"}


def test_weights_of_a_file_are_taken_but_for_the_head(folder):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    other = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    torch.save(other.state_dict(), folder / "ssd.pt")
    task = Detection(
        mode="finetune", model="ssdlite320_mobilenet_v3_large", weights=folder / "ssd.pt"
    )
    made = task._load(10).state_dict()
    same = {
        name
        for name, value in other.state_dict().items()
        if made[name].shape == value.shape and torch.equal(made[name], value)
    }
    assert {name for name in made if name.startswith("backbone")} <= same
    assert not {name for name in made if "classification_head" in name} <= same


def test_objects_that_an_edit_removes_are_lost_to_a_given_detector(tmp_path):
    """On a photograph: the cat is found in the original, and not in a grey picture."""
    from unsafe2safe.data.decode import decode_file
    from unsafe2safe.data.folder import FolderSource
    from unsafe2safe.data.samples import photos_folder

    (tmp_path / "cat.jpg").write_bytes((photos_folder() / "cat.jpg").read_bytes())
    cat = decode_file(tmp_path / "cat.jpg", "cat.jpg").pixels
    source = FolderSource(root=tmp_path)
    at = bench(source)
    (found,) = at.perception.objects.detect([cat])
    box = next(each.box for each in found if each.label == "cat")
    height, width = cat.shape[:2]
    instances = {
        "images": [{"id": 5, "file_name": "cat.jpg", "width": width, "height": height}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 99, "name": "a thing unknown"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 17, "bbox": list(box), "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 99, "bbox": [0, 0, 9, 9], "iscrowd": 0},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(instances))
    task = settings_of("detection", annotations=tmp_path / "boxes.json")
    assert not task.trains
    assert task.unavailable(at) == ""
    assert "boxes" in Detection().unavailable(bench(source))

    def figure(pixels):
        (record,) = source.records()
        items = task.measure([], [Example(record, "run", lambda: pixels)], 0, at)
        return task.figures(task.pack(items), np.arange(1))["map50"]

    assert figure(cat) == pytest.approx(1.0)
    assert figure(resized(cat, height // 2, width // 2)) == pytest.approx(1.0)  # another size
    assert figure(np.full_like(cat, 127)) == 0.0


def test_scenes_tell_the_box_of_their_object_at_their_size():
    from unsafe2safe.evaluation.utility.boxes import read_annotations

    small, large = (SyntheticSource(name="s", size=3, side=side) for side in (64, 128))
    first, second = (read_annotations(source, None) for source in (small, large))
    for image_id, (object_,) in first.by_image.items():
        assert object_.category == small.record(image_id).label
        twice = second.by_image[image_id][0].box
        assert twice == pytest.approx(tuple(2 * edge for edge in object_.box))
