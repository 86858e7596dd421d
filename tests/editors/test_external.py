"""Any command as an editor: what it is given, what comes back, and what its faults lead to."""

import os
import select
import sys
from textwrap import dedent

import numpy as np
import pytest

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_choice
from unsafe2safe.core.errors import ConfigError, ItemError
from unsafe2safe.editors.base import EditRequest
from unsafe2safe.editors.external import ExternalEditor

BASE = """
    import os, sys, time
    from pathlib import Path
    from PIL import Image, ImageOps
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    paths = sorted(source.iterdir())
"""
INVERT = "[ImageOps.invert(Image.open(p)).save(target / p.name) for p in paths]"


@pytest.fixture
def external(tmp_path):
    """An editor of a python script: what follows BASE, and settings."""

    def made(body: str, arguments: str = "{input} {output}", **settings) -> ExternalEditor:
        script = tmp_path / "tool.py"
        script.write_text(dedent(BASE) + dedent(body))
        command = [sys.executable, "-I", str(script), *arguments.split()]
        own = {"command": command, "scratch": str(tmp_path / "scratch")}
        values = compose_choice("editor", "external", own)
        return build(values | settings, "editor", ExternalEditor)

    return made


def request(seed: int, height: int = 20, width: int = 30) -> EditRequest:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.float32)
    mask[:5, :5] = 1
    return EditRequest(image, mask, (), "", "", seed)


def test_a_batch_goes_through_the_command_and_back_in_order(external, tmp_path):
    requests = [request(1), request(2, 7, 9), request(3)]
    for one, edited in zip(requests, external(INVERT).edit(requests), strict=True):
        assert np.array_equal(edited, 255 - one.image)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (tmp_path / "scratch").stat().st_mode & 0o077 == 0


def test_results_may_lie_beside_their_input_and_in_another_format(external):
    body = "[Image.open(p).save(source / (p.stem + '_anonymized.bmp')) for p in paths]"
    editor = external(body, "{input} x", output_suffix="_anonymized")
    assert np.array_equal(editor.edit([request(1)])[0], request(1).image)


def test_masks_are_there_for_commands_that_paint(external):
    body = """
        masks = Path(sys.argv[3])
        [Image.open(masks / p.name).convert("RGB").save(target / p.name) for p in paths]
    """
    (edited,) = external(body, "{input} {output} {masks}").edit([request(1)])
    assert np.array_equal(edited[..., 0] == 255, request(1).mask > 0)


def test_nothing_of_names_and_environment_reaches_the_command(external, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("WANTED", "yes")
    seen = tmp_path / "seen.txt"
    body = f"Path({str(seen)!r}).write_text(str((sorted(os.environ), [p.name for p in paths])))"
    external(body, environment=("WANTED",)).edit([request(1), request(2)])
    told = seen.read_text()
    assert "['000000.png', '000001.png']" in told
    assert "WANTED" in told
    assert "SECRET_TOKEN" not in told


@pytest.mark.parametrize(
    "body",
    [
        "",
        "Image.open(paths[0]).resize((9, 9)).save(target / paths[0].name)",
        "(target / paths[0].name).write_bytes(paths[0].read_bytes()[:100])",
        "(target / paths[0].name).write_bytes(b'')",
        "(target / paths[0].name).symlink_to(paths[0])",
        "(target / paths[0].name).mkdir()",
        "[Image.open(paths[0]).save(target / (paths[0].stem + s)) for s in ('.png', '.jpg')]",
        "Image.new('1', (9000, 9000)).save(target / paths[0].name)",
    ],
    ids=["nothing", "size", "cut", "empty", "link", "folder", "two", "huge"],
)
def test_a_missing_or_unusable_result_fails_that_image_alone(external, body):
    others = "; [ImageOps.invert(Image.open(p)).save(target / p.name) for p in paths[1:]]"
    first, second = external((body or "0") + others).edit([request(1), request(2)])
    assert first.size == 0
    assert np.array_equal(second, 255 - request(2).image)


def test_a_command_that_fails_is_told_without_what_it_printed(external, caplog, capfd):
    with pytest.raises(ItemError, match="ended with status 3"):
        external("print('Anna', file=sys.stderr); print('Weber'); sys.exit(3)").edit([request(1)])
    said = capfd.readouterr()
    assert "status 3" in caplog.text
    assert not any(name in caplog.text + said.out + said.err for name in ("Anna", "Weber"))


def ended(pid: int) -> bool:
    """Whether the process ends: a signal was sent before, but is not answered at once."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])
    finally:
        os.close(process)


def test_a_command_that_hangs_is_ended_with_its_children(external, tmp_path):
    told = tmp_path / "child"
    body = f"""
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path({str(told)!r}).write_text(str(child.pid))
        child.wait()
    """
    for timeout in (1.5, 6, 24):  # a busy machine may not have come to the child
        with pytest.raises(ItemError, match="too long"):
            external(body, timeout=timeout).edit([request(1)])
        if told.exists() and told.read_text():
            break
    assert ended(int(told.read_text()))
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("no_such_command {input} {output}", "there is no command 'no_such_command'"),
        ("python {output}", r"names no \{input\}"),
        ("python {input}", r"editor\.output_suffix must tell"),
        ("", r"names no \{input\}"),
    ],
)
def test_a_command_that_cannot_work_is_told_before_any_work(command, told):
    values = compose_choice("editor", "external", {"command": command})
    with pytest.raises(ConfigError, match=told):
        build(values, "editor", ExternalEditor)


def test_whether_it_draws_faces_is_configured(external):
    assert not external(INVERT).draws_faces
    assert external(INVERT, draws_faces=True).draws_faces
