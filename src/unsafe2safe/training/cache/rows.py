"""Prepared batches as rows, one for each sample, and rows as batches again.

Any dataclass of tensors whose first dimension is the batch can be taken apart, nested ones too. A
field says what it is made of by :class:`MadeOf`, so that equal content is kept once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

# What a prepared tensor can be made of; ``sample``: of all of it.
Part = Literal["target", "source", "text", "mask", "sample"]
# The tensors of one sample by the dotted name of their field, without the batch's dimension.
Row = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class MadeOf:
    """Annotates a field of a prepared dataclass: its tensors depend on that part alone."""

    part: Part


def parts_of(kind: type[Any]) -> dict[str, Part]:
    """What each field of a prepared dataclass is made of; ``sample`` where it does not say."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _part(hints[field.name]) for field in fields(kind)}


def _part(hint: Any) -> Part:
    said = [note.part for note in getattr(hint, "__metadata__", ()) if isinstance(note, MadeOf)]
    return said[0] if said else "sample"


def returned_by(method: Any) -> type[Any]:
    """The class that a method is annotated to return."""
    return cast(type[Any], get_type_hints(method)["return"])


def first_row(prepared: Any) -> Row:
    """The first sample of a batch: a tensor, or a dataclass of tensors, batch first."""
    return {name: tensor[0] for name, tensor in _leaves(prepared, "")}


def first_rows(prepared: Mapping[str, Any]) -> Mapping[str, Row]:
    """As :func:`first_row`, of fields by name; each field's tensors by theirs."""
    return {
        field: {name: tensor[0] for name, tensor in _leaves(value, field)}
        for field, value in prepared.items()
    }


def _leaves(value: Any, name: str) -> list[tuple[str, Tensor]]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [(name, value)]
    if not is_dataclass(value):
        raise TypeError(f"{name} of a prepared batch is {type(value).__name__}, no tensor")
    found = []
    for member in fields(value):
        inner = f"{name}.{member.name}" if name else member.name
        found += _leaves(getattr(value, member.name), inner)
    return found


def batch_of(kind: type[T], rows: Sequence[Mapping[str, Tensor]]) -> T:
    """Rows to one ``kind``, batch first.

    A class that knows how to stack samples of unequal lengths has a class method ``stacked``: such
    are texts, which note what was filled up.
    """
    return cast(T, _built(kind, "", rows))


def _built(kind: Any, name: str, rows: Sequence[Mapping[str, Tensor]]) -> Any:
    kind = _without_none(kind)
    if kind is Tensor:
        found = [row[name] for row in rows if name in row]
        if not found:
            return None
        if len(found) != len(rows):
            raise ValueError(f"some samples of a batch have {name!r}, some have not")
        return torch.stack(found)
    if name and not any(key.startswith(f"{name}.") for row in rows for key in row):
        return None
    if hasattr(kind, "stacked") and len(rows) > 1:
        return kind.stacked([_built(kind, name, [row]) for row in rows])
    hints = get_type_hints(kind)
    return kind(
        **{
            member.name: _built(
                hints[member.name], f"{name}.{member.name}" if name else member.name, rows
            )
            for member in fields(kind)
        }
    )


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (inner for inner in get_args(kind) if inner is not type(None))
    return kind


def moved(prepared: T, device: torch.device) -> T:
    """A prepared batch on another device."""
    if isinstance(prepared, Tensor):
        return cast(T, prepared.to(device))
    if not is_dataclass(prepared) or isinstance(prepared, type):
        return prepared
    changed = {f.name: moved(getattr(prepared, f.name), device) for f in fields(prepared)}
    return cast(T, replace(prepared, **changed))
