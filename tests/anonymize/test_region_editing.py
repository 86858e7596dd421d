"""Outside the masks every pixel is the source's; inside all is the editor's; sizes never change."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unsafe2safe.anonymize.fitting import Fit
from unsafe2safe.anonymize.publish import Publisher
from unsafe2safe.anonymize.region_editing import edit_regions, plan_crops
from unsafe2safe.core.config.components import build, component
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.files import KeyedHash
from unsafe2safe.core.records import Box, Category, Region
from unsafe2safe.data.decode import decode_bytes
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.editors.base import Canvas, Editor, EditRequest
from unsafe2safe.editors.instruct_pix2pix import restore, square
from unsafe2safe.editors.redact import RedactEditor
from unsafe2safe.editors.tiny import TinyEditor
from unsafe2safe.metrics.structure import ssim_map
from unsafe2safe.vision.masks import Shape, Window, mask_of_shapes

COLOUR = (7, 200, 90)
CANVASES = (
    Canvas(),
    Canvas(multiple=16),
    Canvas(64, 8, square=True),
    Canvas(48, 8),
    Canvas(30, square=True),
)


@component
class OnCanvas(Editor):
    """Paints all it gets in one colour, or in noise, and remembers what that was."""

    name: str = "on_canvas"
    noise: bool = False
    wanted: Canvas = Canvas()
    fault: str = ""

    @property
    def canvas(self):
        return self.wanted

    def edit(self, requests):
        vars(self).setdefault("seen", []).extend(requests)
        return [self._painted(request) for request in requests]

    def _painted(self, request):
        height, width = request.mask.shape
        assert request.image.shape == (height, width, 3)
        if not self.wanted.square:  # such an editor stretches whole frames itself
            assert height % self.wanted.multiple == width % self.wanted.multiple == 0
        if self.fault == "size":
            return request.image[:-1]
        if self.fault == "nan":
            return np.full(request.image.shape, np.nan, np.float32)
        if self.noise:
            rng = np.random.default_rng(request.seed)
            return rng.integers(0, 256, request.image.shape, dtype=np.uint8)
        return np.full_like(request.image, COLOUR)


@component
class Stretches(Editor):
    """What becomes of a picture on the square of a small editor that changes nothing else."""

    name: str = "stretches"

    @property
    def canvas(self):
        return Canvas(64, 8, square=True)

    def edit(self, requests):
        return [
            restore(square(r.image, 64).astype(np.float32) / 255, *r.image.shape[:2])
            for r in requests
        ]


@pytest.fixture(scope="module")
def config():
    return load("anonymize", ["dataset=samples", "batch_size=3"])


@pytest.fixture(scope="module")
def tiny():
    values = dict(load("train").editor)  # type: ignore[attr-defined]
    return build({**values, "steps": 1, "init_seed": 0}, "editor", TinyEditor)


def mode(config, region, context=0.5):
    crops = config.crops.model_copy(update={"context": context})
    return config.model_copy(update={"region": region, "crops": crops})


@st.composite
def requests(draw, most=90):
    """Pictures of any size with some feathered boxes masked, now and then nothing or everything."""
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    shapes = []
    for _ in range(draw(st.integers(0, 4))):
        x, y = draw(st.floats(-10, width)), draw(st.floats(-10, height))
        box = Box(x, y, draw(st.floats(0.5, 50)), draw(st.floats(0.5, 50)))
        feather = draw(st.sampled_from([0.0, 1.0, 6.0]))
        shapes.append((Shape(Window.of(box, height, width)), 0.0, feather))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image.setflags(write=False)  # as decoded images are
    mask = mask_of_shapes(shapes, height, width)
    return EditRequest(image, mask, (), "a person", "give the person red hair", seed)


def assert_outside_is_untouched(request, frame):
    assert frame.dtype == np.uint8
    assert frame.shape == request.image.shape
    outside = request.mask == 0
    assert np.array_equal(frame[outside], request.image[outside])


@given(
    st.lists(requests(), min_size=1, max_size=3),
    st.sampled_from(["composite", "crops"]),
    st.sampled_from(CANVASES),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_the_source_outside_the_masks_and_the_editor_inside(config, some, region, canvas, context):
    editor = OnCanvas(wanted=canvas)
    frames = edit_regions(editor, some, mode(config, region, context))
    for request, frame in zip(some, frames, strict=True):
        assert_outside_is_untouched(request, frame)
        inside = frame[request.mask == 1]
        assert (inside == np.array(COLOUR, np.uint8)).all()  # no sensitive pixel shines through


@given(
    requests(),
    st.sampled_from(["composite", "crops"]),
    st.sampled_from(["noise", "blur", "mosaic", "fill", "inpaint"]),
    st.sampled_from(["L", "RGB", "RGBA", "P", "1", "LA"]),
    st.integers(1, 8),
    st.sampled_from(["PNG", "TIFF"]),
)
@settings(max_examples=60)
def test_what_is_published_losslessly_is_the_decoded_original_outside_the_masks(
    config, tmp_path_factory, request_, region, editor, colours, orientation, kind
):
    stored = Image.fromarray(request_.image).convert(colours)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, kind, exif=exif)
    decoded = decode_bytes(file.getvalue(), "a.png")
    mask = request_.mask if decoded.pixels.shape[:2] == request_.mask.shape else request_.mask.T
    request = EditRequest(decoded.pixels, mask, (), "", "", request_.seed)
    chosen = OnCanvas(noise=True) if editor == "noise" else RedactEditor(name="r", method=editor)
    (frame,) = edit_regions(chosen, [request], mode(config, region))
    root = tmp_path_factory.getbasetemp() / "publisher"
    publisher = Publisher(root / "published", config.publish, KeyedHash(root / "private"))
    published = publisher.encode("a.png", frame, decoded, None).pixels
    assert_outside_is_untouched(request, published)
    if editor == "noise" and region == "composite" and mask.any():
        painted = OnCanvas(noise=True).edit([request])[0]
        assert np.array_equal(published[mask == 1], painted[mask == 1])


@given(requests(most=130), st.sampled_from(["full", "composite", "crops"]))
@settings(max_examples=6)
def test_every_size_comes_back_from_the_tiny_editor(config, tiny, request_, region):
    (frame,) = edit_regions(tiny, [request_], mode(config, region))
    assert frame.shape == request_.image.shape
    if region != "full":
        assert_outside_is_untouched(request_, frame)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(CANVASES))
def test_a_picture_fits_the_canvas_and_is_restored_from_it(height, width, canvas):
    fit = Fit.to(canvas, height, width)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    fitted = fit.image(image)
    assert fitted.shape[0] % canvas.multiple == fitted.shape[1] % canvas.multiple == 0
    if canvas.side is not None:
        assert max(fitted.shape[:2]) <= canvas.side
    if canvas.square:
        assert fitted.shape[:2] == (canvas.side, canvas.side)
    restored = fit.restored(fitted)
    assert restored.shape == image.shape
    if canvas.side is None:  # padded only
        assert np.array_equal(restored, image)
    assert fit.mask(np.ones((height, width), np.float32)).min() == 1


@given(
    requests(),
    st.sampled_from(CANVASES),
    st.floats(0, 3),
)
def test_each_masked_pixel_is_in_one_crop_and_none_is_larger_than_it_must_be(
    request_, canvas, context
):
    count = np.zeros(request_.mask.shape, int)
    for crop in plan_crops(request_.mask, canvas, context):
        weight = crop.weight(request_.mask)
        assert weight.any()
        count[crop.window.rows, crop.window.columns] += weight > 0
    assert np.array_equal(count, request_.mask > 0)


def test_near_regions_share_a_crop_unless_that_would_cost_resolution():
    mask = np.zeros((1000, 1000), np.float32)
    mask[100:140, 100:140] = mask[100:140, 160:200] = mask[800:900, 800:900] = 1
    assert [len(crop.shapes) for crop in plan_crops(mask, Canvas(256, square=True), 0.5)] == [2, 1]
    crowd = np.zeros((1000, 1000), np.float32)
    for x in range(0, 1000, 50):
        crowd[500:530, x : x + 30] = 1
    crops = plan_crops(crowd, Canvas(128, square=True), 0.5)
    assert sum(len(crop.shapes) for crop in crops) == 20
    assert all(max(crop.window.height, crop.window.width) <= 128 for crop in crops)


def test_crops_for_a_square_are_square_and_whole_frames_are_left_to_the_editor(config):
    mask = np.zeros((300, 500), np.float32)
    mask[100:220, 200:230] = 1
    (crop,) = plan_crops(mask, Canvas(64, 8, square=True), 0.5)
    assert crop.window.height == crop.window.width == 240
    request = EditRequest(np.zeros((300, 500, 3), np.uint8), mask, (), "", "", 1)
    editor = OnCanvas(wanted=Canvas(64, 1, square=True))
    edit_regions(editor, [request], mode(config, "composite"))
    assert vars(editor)["seen"][0].image.shape == (300, 500, 3)


def test_a_crop_is_told_where_its_regions_are_and_draws_its_own_noise(config):
    mask = np.zeros((400, 900), np.float32)
    mask[100:150, 100:150] = mask[100:150, 700:750] = 1
    regions = (Region("a", Box(100, 100, 50, 50), Category.FACE, 1.0, "t"),)
    request = EditRequest(np.zeros((400, 900, 3), np.uint8), mask, regions, "", "", 1)
    editor = OnCanvas(wanted=Canvas(100, square=True))
    edit_regions(editor, [request], mode(config, "crops"))
    first, second = vars(editor)["seen"]
    assert [region.box for region in first.regions] == [Box(25, 25, 50, 50)]
    assert second.regions == ()
    assert first.seed != second.seed
    assert first.mask[25:75, 25:75].min() == 1


def test_so_many_crops_at_a_time_as_images(config):
    mask = np.zeros((400, 2000), np.float32)
    mask[:50, ::200] = 1
    batches = []

    @component
    class Counts(OnCanvas):
        def edit(self, requests):
            batches.append(len(requests))
            return super().edit(requests)

    request = EditRequest(np.zeros((400, 2000, 3), np.uint8), mask, (), "", "", 1)
    edit_regions(Counts(), [request], mode(config, "crops"))
    assert batches == [3, 3, 3, 1]


@pytest.mark.parametrize("region", ["full", "composite", "crops"])
@pytest.mark.parametrize(("fault", "told"), [("size", "another size"), ("nan", "no uint8 image")])
@pytest.mark.parametrize("canvas", CANVASES[:2])
def test_what_is_no_image_of_the_asked_size_is_a_reason(config, region, fault, told, canvas):
    mask = np.zeros((40, 50), np.float32)
    mask[5:20, 5:20] = 1
    request = EditRequest(np.zeros((40, 50, 3), np.uint8), mask, (), "", "", 1)
    (reason,) = edit_regions(OnCanvas(fault=fault, wanted=canvas), [request], mode(config, region))
    assert told in reason


def test_crops_edit_a_small_face_of_a_large_picture_at_the_editors_resolution(config):
    """A face of 4 % of the width is a smudge on the square of the whole frame, and a face on that
    of its crop."""
    scene = Image.open(photos_folder() / "coffee.jpg").convert("RGB").resize((1500, 1000))
    person = Image.open(photos_folder() / "astronaut.jpg").convert("RGB").resize((350, 350))
    scene.paste(person, (900, 500))
    image = np.asarray(scene)
    scale = 350 / 512
    box = Box(900 + 181 * scale, 500 + 58 * scale, 88 * scale, 119 * scale)
    window = Window.of(box, *image.shape[:2])
    mask = mask_of_shapes([(Shape(window), 0.0, 6.0)], *image.shape[:2])
    request = EditRequest(image, mask, (), "", "", 5)
    kept = {}
    for region in ("composite", "crops"):
        (frame,) = edit_regions(Stretches(), [request], mode(config, region, 0.25))
        assert_outside_is_untouched(request, frame)
        face = window.rows, window.columns
        kept[region] = float(ssim_map(image[face], frame[face]).mean())
    assert kept["composite"] < 0.35
    assert kept["crops"] > 0.6
    (painted,) = edit_regions(
        OnCanvas(noise=True, wanted=Canvas(64, 8, square=True)), [request], mode(config, "crops")
    )
    assert_outside_is_untouched(request, painted)
    inside = mask == 1
    assert (painted[inside] != image[inside]).any(axis=1).mean() > 0.99
