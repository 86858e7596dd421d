"""A procedural world: scenes whose private and public attributes are known exactly."""

from unsafe2safe.data.synthetic.attributes import Private, Scene
from unsafe2safe.data.synthetic.drawing import layers, private_mask, render, slot_mask, slots
from unsafe2safe.data.synthetic.redrawing import Redrawn, change_mask, draw_private, redraw
from unsafe2safe.data.synthetic.worlds import WORLDS, World, draw_scene

__all__ = [
    "WORLDS",
    "Private",
    "Redrawn",
    "Scene",
    "World",
    "change_mask",
    "draw_private",
    "draw_scene",
    "layers",
    "private_mask",
    "redraw",
    "render",
    "slot_mask",
    "slots",
]
