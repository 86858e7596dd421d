"""Scores of captions, answers and boxes equal those of the libraries that define them."""

import contextlib
import io

import numpy as np
import pytest

from unsafe2safe.core.records import Box
from unsafe2safe.evaluation.utility.boxes import Annotated
from unsafe2safe.evaluation.utility.caption_scores import (
    caption_figures,
    caption_items,
    tokenize,
)
from unsafe2safe.evaluation.utility.coco_map import Detected, average_precision, match, pack
from unsafe2safe.evaluation.utility.okvqa import (
    Question,
    normalized,
    number_of,
    official_accuracy,
    okvqa_accuracy,
)

TOLD = [
    "A man rides a horse on the beach.",
    "two dogs, and a cat!",
    "a plate of food",
    "",
    "the red car near the big house",
]
TRUE = [
    ["A man riding a horse on a beach.", "A person rides along the sea on a horse."],
    ["Two dogs and a cat lie on a sofa.", "Some pets"],
    ["A plate with food on it", "a plate of food"],
    ["Somebody's kitchen"],
    ["A red car near a house.", "The big house has a red car in front of it.", "car"],
]


def test_captions_score_as_pycocoevalcap_scores_equally_tokenized_text():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    told = {i: [tokenize(text)] for i, text in enumerate(TOLD)}
    true = {i: [tokenize(text) for text in texts] for i, texts in enumerate(TRUE)}
    bleu, _ = Bleu(4).compute_score(true, told, verbose=0)
    cider, per_image = Cider().compute_score(true, told)
    items = np.array(caption_items(TOLD, TRUE))
    found = caption_figures(items)
    assert found["bleu4"] == pytest.approx(bleu[3], abs=1e-9)
    assert 0.05 < found["bleu4"] < 0.95
    assert found["cider"] == pytest.approx(cider, abs=1e-9)
    assert items[:, 0] == pytest.approx(per_image, abs=1e-9)


def test_bleu_of_a_choice_of_images_is_that_of_a_corpus_of_them():
    from pycocoevalcap.bleu.bleu import Bleu

    items = np.array(caption_items(TOLD, TRUE))
    chosen = [2, 0, 2, 4]
    told = {i: [tokenize(TOLD[c])] for i, c in enumerate(chosen)}
    true = {i: [tokenize(text) for text in TRUE[c]] for i, c in enumerate(chosen)}
    bleu, _ = Bleu(4).compute_score(true, told, verbose=0)
    assert caption_figures(items[chosen])["bleu4"] == pytest.approx(bleu[3], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog, isn't it?", "a man 's dog is n't it"),
        ("I can't; we\u2019re two -- really!", "i ca n't we 're two really"),
        ("A well-known 3.5 m U.S. boat (old)...", "a well-known 3.5 m u.s. boat old"),
        ('"Stop" sign at 10:30', "stop sign at 10:30"),
        ("  ", ""),
    ],
)
def test_words_are_cut_as_stanfords_tokenizer_cuts_them(text, words):
    assert tokenize(text) == words


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("The dog.", "dog"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("black/white", "black white"),
        ("yes , it is", "yes it is"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("well", "well"),
        (" surf\nboard ", "surf board"),
    ],
)
def test_answers_are_made_alike_as_vqa_does(answer, same):
    assert normalized(answer) == same


def test_accuracy_counts_the_people_who_say_the_same():
    people = ["surfing"] * 2 + ["the surfing."] + ["swimming"] * 2 + ["sea"] * 5
    assert okvqa_accuracy("Surfing", people) == 1.0
    assert okvqa_accuracy("swimming", people) == pytest.approx(2 / 3)
    assert okvqa_accuracy("sailing", people) == 0.0
    # three of ten: left out in turn, 7 times three agree and 3 times two
    assert official_accuracy("surfing", people) == pytest.approx((7 * 1 + 3 * 2 / 3) / 10)
    assert official_accuracy("swimming", people) == pytest.approx((8 * 2 / 3 + 2 / 3) / 10)


def test_the_likeliest_answer_is_what_most_people_say():
    assert Question("?", ("b", "a", "a", "c")).likeliest == "a"
    assert Question("?", ("b", "a")).likeliest == "b"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("train2014/COCO_train2014_000000000009.jpg", 9),
        ("val2017/000000000139.jpg", 139),
        ("a/cat.jpg", None),
    ],
)
def test_images_are_known_by_cocos_numbers(name, number):
    assert number_of(name) == number


CLASSES = ("cat", "dog", "car")


def planted(seed, images=12):
    """Boxes, some of them crowds, and what a poor detector says of them."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        objects, guesses = [], []
        for _ in range(rng.integers(0, 6)):
            kind = int(rng.integers(len(CLASSES) - (seed % 2)))  # odd seeds: never a car
            box = Box(*rng.uniform(0, 80, 2), *rng.uniform(5, 60, 2))
            crowd = bool(rng.random() < 0.15)
            objects.append(Annotated(CLASSES[kind], box, box.area * 0.7, crowd))
            for _ in range(rng.integers(0, 3)):
                moved = Box(*(np.array(box) + rng.normal(0, 4, 4)).clip(1))
                said = kind if rng.random() < 0.85 else int(rng.integers(len(CLASSES)))
                guesses.append(Detected(said, moved, round(float(rng.random()), 2)))
        truth.append(objects)
        found.append(guesses)
    return truth, found


def of_pycocotools(truth, found):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": i + 1} for i in range(len(truth))]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    boxes = [
        {
            "id": 0, "image_id": i + 1, "category_id": CLASSES.index(o.category) + 1,
            "bbox": list(o.box), "area": o.area, "iscrowd": int(o.crowd),
        }
        for i, objects in enumerate(truth) for o in objects
    ]  # fmt: skip
    for number, box in enumerate(boxes, start=1):
        box["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {"images": images, "categories": categories, "annotations": boxes}
        gold.createIndex()
        told = gold.loadRes(
            [
                {
                    "image_id": i + 1, "category_id": d.category + 1,
                    "bbox": list(d.box), "score": d.score,
                }
                for i, guesses in enumerate(found) for d in guesses
            ]
        )  # fmt: skip
        evaluation = COCOeval(gold, told, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


@pytest.mark.parametrize("seed", range(4))
def test_mean_average_precision_is_pycocotools_own(seed):
    truth, found = planted(seed)
    packed = pack(match(CLASSES, truth, found))
    ours = average_precision(packed, np.arange(len(truth)))
    assert ours == pytest.approx(tuple(of_pycocotools(truth, found)), abs=1e-12)
    assert 0.02 < ours[0] < ours[1] < 0.98


def test_images_chosen_twice_count_as_two_images():
    truth, found = planted(0)
    chosen = np.array([0, 3, 3, 3, 7, 8, 8, 11])
    packed = pack(match(CLASSES, truth, found))
    again = [truth[i] for i in chosen], [found[i] for i in chosen]
    assert average_precision(packed, chosen) == pytest.approx(tuple(of_pycocotools(*again)))


def test_nothing_found_is_zero_and_nothing_to_find_is_no_figure():
    truth, _ = planted(0)
    nothing = [[] for _ in truth]
    everything = np.arange(len(truth))
    assert average_precision(pack(match(CLASSES, truth, nothing)), everything) == (0.0, 0.0)
    none = average_precision(pack(match(CLASSES, nothing, nothing)), everything)
    assert np.isnan(none).all()
