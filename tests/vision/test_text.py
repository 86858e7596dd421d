from __future__ import annotations

import logging
import socket

import numpy as np
import pytest

from unsafe2safe.core.records import Category
from unsafe2safe.vision.masks import Window
from unsafe2safe.vision.matching import normalize_text
from unsafe2safe.vision.regions import grow_region, iou
from unsafe2safe.vision.text import TextReader, _engine


@pytest.mark.parametrize("name", ["coffee_note.jpg", "cat_poster.jpg"])
def test_every_planted_string_is_read_where_it_is(perception, photo, labels, name):
    image = photo(name)
    lines = perception.text.read(image)
    read = {normalize_text(line.text) for line in lines}
    assert {normalize_text(text) for text in labels[name]["text"]} <= read
    for line in lines:
        assert line.polygon.shape == (4, 2)
        assert 0 <= line.box.x < line.box.right <= image.shape[1]
        assert 0 <= line.box.y < line.box.bottom <= image.shape[0]


def test_of_a_part_lines_are_told_where_they_lie_in_the_whole(perception, photo):
    image = photo("coffee_note.jpg")
    whole = {line.text: line for line in perception.text.read(image)}
    first = min(whole.values(), key=lambda line: line.box.y)
    height, width = image.shape[:2]
    around = Window.of(grow_region(Category.TEXT, first.box, 0.5, width, height), height, width)
    seen = {line.text: line for line in perception.read_again(image, [around])}
    assert first.text in seen
    assert iou(seen[first.text].box, first.box) > 0.6
    assert np.abs(seen[first.text].polygon - first.polygon).max() < 0.5 * first.box.height
    assert len(seen) < len(whole)
    assert perception.read_again(image, []) == []


@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_no_text_is_read_where_there_is_none(perception, photo, name):
    assert perception.text.read(photo(name)) == []


def test_two_scales_report_a_line_once(perception, photo, labels):
    lines = [line.text for line in perception.verify_text(photo("coffee_note.jpg"))]
    assert sorted(lines) == sorted(labels["coffee_note.jpg"]["text"])


@pytest.mark.parametrize(
    ("shape", "given", "read"),
    [((64, 64), None, [1.0]), ((368, 900), None, [1.0]), ((369, 500), None, [1.0, 2.0]),
     ((1200, 1600), None, [1.0]), ((64, 64), (1.0, 2.0, 4.0), [1.0, 2.0, 4.0])],
)  # fmt: skip
def test_a_picture_is_read_again_only_where_the_engine_sees_it_larger(
    monkeypatch, shape, given, read
):
    seen = []
    monkeypatch.setattr(TextReader, "_read", lambda _, image, scale: seen.append(scale) or [])
    assert TextReader().read_scales(np.zeros((*shape, 3), np.uint8), given) == []
    assert seen == read
    finder = _engine(0).cfg.Det
    assert (finder.limit_type, finder.limit_side_len) == ("min", 736)


@pytest.mark.parametrize(
    ("text", "score", "counts"),
    [("Anna", 0.7, True), ("Anna", 0.5, False), ("42", 0.7, True), ("0", 0.99, False),
     ("--", 0.99, False), ("p", 0.7, False), ("p", 0.95, True), ("a1", 0.6, True)],
)  # fmt: skip
def test_noise_is_dropped_and_what_may_mean_something_is_kept(text, score, counts):
    assert TextReader(0.6)._counts(text, score) is counts


def test_reading_needs_no_network_and_prints_nothing(monkeypatch, capfd, photo):
    def refuse(*args, **kwargs):
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    _engine.cache_clear()
    TextReader(0.6, threads=2).read(photo("coffee_note.jpg"))
    TextReader(0.6, threads=2).read(np.zeros((40, 40, 3), np.uint8))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_the_engine_is_loaded_once_per_process(photo, caplog):
    _engine(2)
    with caplog.at_level(logging.INFO, "unsafe2safe"):
        TextReader(0.6, threads=2).read(np.zeros((40, 40, 3), np.uint8))
    assert "rapidocr" not in caplog.text
