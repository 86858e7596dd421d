"""What is sent, and how answers are read: no server needed."""

from __future__ import annotations

import base64
import io
import json
from email.utils import formatdate
from time import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsafe2safe.backends.server_pace import Pace, backoff_delay, retry_after
from unsafe2safe.backends.server_requests import ImageFormat, data_url, read_answer


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((300, 900), (100, 33)),
        ((900, 300), (33, 100)),
        ((100, 100), (100, 100)),
        ((7, 9), (9, 7)),
        ((1, 1000), (100, 1)),
    ],
)
def test_images_are_sent_at_most_as_large_as_told_and_bare(
    image_format: ImageFormat, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    sent = opened(data_url(pixels, 100, image_format, 90))
    assert (sent.format, sent.size) == (image_format, size)
    assert not sent.getexif()
    assert set(sent.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["choices", "message", "content", "finish_reason"]), inner
                )
            ),
        ).map(json.dumps),
    )
)
def test_any_body_is_an_answer_or_a_value_error(body: str) -> None:
    try:
        answer = read_answer(body, {"type": "object"}, enforced=True)
    except ValueError:
        return
    assert answer.finished <= (json.loads(body)["choices"][0]["finish_reason"] == "stop")


def test_deep_nesting_is_no_crash() -> None:
    deep = "[" * 100_000
    with pytest.raises(ValueError, match="JSON"):
        read_answer(deep, None, enforced=True)
    body = json.dumps({"choices": [{"message": {"content": deep}, "finish_reason": "stop"}]})
    assert not read_answer(body, {"type": "object"}, enforced=True).constrained


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("nan", 0.0), ("inf", 0.0), ("soon", 0.0),
     ("", 0.0), ("1e9", 300.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_read_and_bounded(value: str, seconds: float) -> None:
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_may_be_a_date() -> None:
    assert 30 < retry_after({"retry-after": formatdate(time() + 60, usegmt=True)}) <= 60


def test_backoff_doubles_up_to_a_bound_and_jitters() -> None:
    assert [backoff_delay(retry, 1.0, lambda: 0.0) for retry in range(8)] == [
        1, 2, 4, 8, 16, 32, 60, 60,
    ]  # fmt: skip
    assert backoff_delay(2, 1.0, lambda: 1.0) == 2.0
    assert backoff_delay(10**6, 1.0, lambda: 0.0) == 60


def test_any_minute_holds_no_more_requests_than_allowed() -> None:
    now = 100.0
    sent: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    pace = Pace(20, sleep, lambda: now)
    for index in range(100):
        if index == 50:
            now += 300  # an idle time is not saved up
        if index == 70:
            pace.hold(90)
        pace.wait()
        sent.append(now)
    assert all(sum(start <= at < start + 60 for at in sent) <= 20 for start in sent)
    assert sent[70] - sent[69] == pytest.approx(90)
