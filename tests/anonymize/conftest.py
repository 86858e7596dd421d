"""A small world and an undisturbed run of it, shared by the tests of how runs go on."""

from __future__ import annotations

import pytest
from blind import see_nothing
from small_world import UNITS, make_world

from unsafe2safe.vision.perception import Perception


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Twelve pictures; ``quiet`` is the run that nothing disturbs."""
    made = make_world(tmp_path_factory.mktemp("world") / "world")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Perception, "verify_faces", see_nothing)
        patched.setattr(Perception, "verify_text", see_nothing)
        result = made.run("quiet", *UNITS)
    assert result.status == 3, result.message
    return made


@pytest.fixture
def blind(monkeypatch):
    monkeypatch.setattr(Perception, "verify_faces", see_nothing)
    monkeypatch.setattr(Perception, "verify_text", see_nothing)
