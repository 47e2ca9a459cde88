"""Objects with a state, a class of the user's or a name, as a checkpoint can hold them of attributes."""

from __future__ import annotations

import sys
from enum import Enum
from types import SimpleNamespace
from typing import Any, Final

from lightning_shim.checkpoint.kind import ABSENT, CannotKeepError, Kind, Packs, Plain, Unpacks, from_contents, never
from lightning_shim.session.own_generators import OwnGenerators


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _pack_generator(packer: Packs, value: Any, path: str) -> Plain:
    states = OwnGenerators({"holder": SimpleNamespace(generator=value)}).capture()
    return _class_name(type(value)), str(getattr(value, "device", "cpu")), packer.pack(states, f"{path}.state")


def _make_generator(unpacker: Unpacks, contents: Plain, present: Any, path: str) -> Any:
    _, device, states = contents
    if device != "cpu":
        return ABSENT
    holder = SimpleNamespace()
    OwnGenerators({"holder": holder}).restore(unpacker.unpack(states, ABSENT, path))
    return holder.generator


def _fill_generator(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    if value is present:
        states = unpacker.unpack(contents[2], ABSENT, path)
        OwnGenerators({"holder": SimpleNamespace(generator=value)}).restore(states)


def _fits_class(value: Any, contents: Plain) -> bool:
    return bool(_class_name(type(value)) == contents[0])


def _pack_state(packer: Packs, value: Any, path: str) -> Plain:
    try:
        state = value.state_dict()
    except Exception as error:
        # It may be a method of another meaning, which wants arguments.
        raise CannotKeepError(path) from error
    return _class_name(type(value)), packer.pack(state, f"{path}.state_dict()")


def _fill_state(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    value.load_state_dict(unpacker.unpack(contents[1], value.state_dict(), f"{path}.state_dict()"))


def _pack_object(packer: Packs, value: Any, path: str) -> Plain:
    return _class_name(type(value)), [
        (name, packer.pack(entry, f"{path}.{name}")) for name, entry in vars(value).items()
    ]


def _fill_object(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    # Past __setattr__, which may do more than that.
    attributes = vars(value)
    entries = {
        name: unpacker.unpack(plain, attributes.get(name, ABSENT), f"{path}.{name}") for name, plain in contents[1]
    }
    attributes.clear()
    attributes.update(entries)


def _reference(value: Any) -> tuple[str, str]:
    """Returns where a class, a function or a member of an enumeration is found: its module, and its name there."""
    owner = type(value) if isinstance(value, Enum) else value
    name = getattr(owner, "__qualname__", "")
    return str(owner.__module__), f"{name}.{value.name}" if isinstance(value, Enum) else name


def _referred(reference: tuple[str, str]) -> Any:
    """Returns what a reference is of; nothing is imported for it."""
    module_name, name = reference
    found: Any = sys.modules.get(module_name, ABSENT)
    for part in name.split("."):
        found = getattr(found, part, ABSENT)
    return found


def is_named(value: Any) -> bool:
    """Tells whether a class, a function or a member of an enumeration is found where it says that it is."""
    return _referred(_reference(value)) is value


OBJECTS: Final[dict[str, Kind]] = {
    "named": Kind(lambda packer, value, path: _reference(value), never, from_contents(_referred)),
    "generator": Kind(_pack_generator, _fits_class, _make_generator, _fill_generator),
    "with state": Kind(_pack_state, _fits_class, None, _fill_state),
    "object": Kind(_pack_object, _fits_class, None, _fill_object),
}
"""Other objects, by the names that stand in checkpoints."""
