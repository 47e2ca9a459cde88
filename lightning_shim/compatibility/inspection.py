"""``check``: the members of Lightning that a user's class overrides and uses, with their support on Determined.

The overrides are found in the class, the uses in its source, and the support in the table of members. Nothing of the
user's is run, and neither Determined nor a Trainer is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Final

from lightning_shim.compatibility.report import CompatibilityReport, Finding, Role
from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.members.member import Kind, Member, Support
from lightning_shim.members.query import find, member, members
from lightning_shim.members.trainer_parts import SETTABLE, TRAINER_PARTS, instead_of
from lightning_shim.patching.attachment import FIXED, FIXED_SENTENCE
from lightning_shim.upstream.lightning import Lightning, is_overridden, lightning_of, original
from lightning_shim.upstream.namespaces import NAMESPACES, derives_from
from lightning_shim.user_code.bytecode import is_own_method
from lightning_shim.user_code.class_source import is_users
from lightning_shim.user_code.member_uses import Origin, Use
from lightning_shim.user_code.user_class import Function, Place, UserCode

_OWNERS: Final = ("LightningModule", "LightningDataModule", "Callback")

_UNKNOWN: Final = {
    "Trainer": "it raises AttributeError; Lightning's Trainer has no such member.",
    "Logger": "it raises AttributeError; Lightning's TensorBoardLogger has no such member.",
}
"""The sentences for members that the table does not have, of the objects that the trial provides.

Of the user's own classes nothing can be said: they may have members that the source does not show.
"""

_PRIVATE: Final = member("Trainer", "_callback_connector").sentence
_AS_IN_LIGHTNING: Final = "it is what it is in Lightning's Trainer."
_GUARDED: Final = "it is not there, and your code goes on without it."
_NAMES: Final = {
    "Trainer": "trainer",
    "Logger": "logger",
    "LightningModule": "pl_module",
    "LightningDataModule": "datamodule",
}


def check(module_or_class: Any) -> CompatibilityReport:
    """Prints which parts of a module work on Determined, before anything is trained.

    Nothing of the user's is run, and Determined need not be installed. An object's own attributes count as well as its
    class's.

    Args:
        module_or_class: A LightningModule, LightningDataModule or Lightning callback of either namespace, or a class of
            these.

    Returns:
        The report that was printed.

    Raises:
        ConfigurationError: If it is none of these.
    """
    report = inspect_members(module_or_class)
    print(report)
    return report


def is_inspectable(module_or_class: Any) -> bool:
    """Whether :func:`check` accepts an object or class."""
    return _owner_of(original(module_or_class)) is not None


def inspect_members(module_or_class: Any) -> CompatibilityReport:
    """Makes the report of :func:`check` without printing it."""
    subject = original(module_or_class)
    found = _owner_of(subject)
    if found is None:
        cls = subject if isinstance(subject, type) else type(subject)
        raise ConfigurationError(
            f"{caller_location()}: {cls.__module__}.{cls.__qualname__} is not a LightningModule, LightningDataModule "
            f"or Callback of {' or '.join(NAMESPACES)}."
        )
    return _Inspection(subject, *found).report()


def may_change_optimization(subjects: Iterable[Any]) -> bool:
    """Whether the user's code may change ``accumulate_grad_batches`` or ``automatic_optimization`` during training.

    Classes without source may do so.
    """
    for subject in map(original, subjects):
        found = _owner_of(subject)
        if found is not None:
            owner, lightning = found
            code = UserCode(subject, owner, getattr(lightning, owner))
            # Only the methods of the classes count. Somewhere in the user's package there may well be a setting of
            # that name, and a wrong yes puts gradients, which are as large as the weights, into every checkpoint.
            if code.unread or any(map(code.sets_later, ("accumulate_grad_batches", "automatic_optimization"))):
                return True
    return False


def lightnings_callback(callback_class: type) -> Member:
    """Returns the row of the Lightning callback that a class is or derives from."""
    lightning = lightning_of(callback_class)
    package = lightning.Callback.__module__.rpartition(".")[0]
    return next(
        row
        for base in callback_class.__mro__
        if base.__module__.startswith(f"{package}.") and (row := find("callbacks", base.__name__)) is not None
    )


def _owner_of(subject: Any) -> tuple[str, Lightning] | None:
    try:
        lightning = lightning_of(subject)
    except ConfigurationError:
        return None
    cls = subject if isinstance(subject, type) else subject.__class__
    owners = [owner for owner in _OWNERS if issubclass(cls, getattr(lightning, owner))]
    return (owners[0], lightning) if owners else None


class _Inspection:
    """The inspection of one class or object."""

    def __init__(self, subject: Any, owner: str, lightning: Lightning) -> None:
        self._subject: Final = subject
        self._owner: Final = owner
        self._lightning: Final = lightning
        self._base: Final[type] = getattr(lightning, owner)
        self._code: Final = UserCode(subject, owner, self._base)
        self._set_on_trainer: Final = {
            use.name
            for function in self._code.functions
            for use in function.found.uses
            if use.is_stored and use.value.owner == "Trainer"
        }

    def report(self) -> CompatibilityReport:
        found: dict[tuple[str, int, str], Finding] = {}
        for finding in (*self._overrides(), *self._lightnings_callback(), *self._configured_callbacks(), *self._uses()):
            key = (finding.file, finding.line, finding.member)
            # A line may use a member twice, once guarded and once not.
            if key not in found or finding.support is Support.REFUSED:
                found[key] = finding
        return CompatibilityReport(
            name=self._code.cls.__qualname__,
            owner=self._owner,
            findings=tuple(found[key] for key in sorted(found)),
            unread=self._code.unread,
        )

    def _override(self, row: Member, place: Place) -> Finding:
        name = self._code.cls.__qualname__
        spelling = name if row.kind is Kind.CLASS else f"{name}.{row.name}"
        return _finding(place, f"{row.owner}.{row.name}", row.support, row.sentence, Role.OVERRIDE, spelling)

    def _overrides(self) -> Iterator[Finding]:
        for row in members(self._owner):
            if row.kind is Kind.HOOK and not is_own_method(row, self._code.cls):
                place = None
                if is_overridden(row.name, self._subject, self._base):
                    place = self._code.definition(row.name)
                elif isinstance(self._subject, type):
                    # An object shows the hooks that were assigned to it. Of a class only the source tells.
                    place = self._code.set_on_self.get(row.name)
                if place is not None:
                    yield self._override(row, place)

    def _lightnings_callback(self) -> Iterator[Finding]:
        if self._owner == "Callback":
            row = lightnings_callback(self._code.cls)
            if row.name != "Callback":
                yield self._override(row, self._code.place)

    def _configured_callbacks(self) -> Iterator[Finding]:
        """Finds the callbacks that ``configure_callbacks`` creates, as far as its source shows."""
        if self._owner != "LightningModule":
            return
        for cls, place in self._code.made_by("configure_callbacks"):
            if not derives_from(cls, "Callback"):
                continue
            row = lightnings_callback(cls)
            name = f"callbacks.{row.name}"
            if row.name != "Callback":
                yield _finding(place, name, row.support, row.sentence, Role.MADE, cls.__qualname__)
            if is_users(cls.__module__):
                report = _Inspection(cls, "Callback", lightning_of(cls)).report()
                for finding in (*report.refused, *report.ignored):
                    if finding.member != name:
                        yield dataclasses.replace(finding, role=Role.MADE)

    def _uses(self) -> Iterator[Finding]:
        reached = self._code.reached()
        for function in self._code.functions:
            for use in function.found.uses:
                finding = self._use(function, use)
                if finding is None:
                    continue
                if function in reached:
                    yield finding
                elif finding.support in (Support.REFUSED, Support.IGNORED) and not self._code.is_hidden(function):
                    yield dataclasses.replace(
                        finding,
                        support=Support.IGNORED,
                        sentence=f"it is not reached, since a trial never calls {function.name}.",
                        role=Role.UNREACHED,
                    )

    def _use(self, function: Function, use: Use) -> Finding | None:
        owner, name = use.value.owner, use.name
        is_own = owner == self._owner and use.value.origin is not Origin.OTHER
        if name.startswith("__"):
            return None
        if is_own and self._code.defines(name, function.cls if use.value.origin is Origin.SUPER else None):
            return None
        outcome = self._outcome(use, is_own)
        if outcome is None:
            return None
        support, sentence = outcome
        top, *path = owner.split(".")
        member, spelling = f"{owner}.{name}", ".".join(["self" if is_own else _NAMES[top], *path, name])
        if use.is_guarded and support is Support.REFUSED:
            # hasattr answers False, or an AttributeError is caught, so nothing goes wrong.
            support, sentence = Support.NATIVE, _GUARDED
        return _finding(function.place(use.line), member, support, sentence, Role.USE, spelling)

    def _outcome(self, use: Use, is_own: bool) -> tuple[Support, str] | None:
        """Returns the support and the sentence for a use of a member, or None if nothing can be said."""
        owner, name = use.value.owner, use.name
        if owner in TRAINER_PARTS:
            is_there = name in TRAINER_PARTS[owner] and (not use.is_stored or f"{owner}.{name}" in SETTABLE)
            return (Support.BACKED, _AS_IN_LIGHTNING) if is_there else (Support.REFUSED, instead_of(owner))
        row = find(owner, name)
        if use.is_stored and owner == "Trainer" and name in FIXED:
            return Support.REFUSED, FIXED_SENTENCE
        if row is None:
            if owner not in _UNKNOWN or self._code.sets_somewhere(name):
                return None
            return Support.REFUSED, _PRIVATE if owner == "Trainer" and name.startswith("_") else _UNKNOWN[owner]
        if row.kind is Kind.HOOK or (owner in _OWNERS and not is_own and row.is_removed):
            # A hook counts where it is overridden, and another class of the user's may define what Lightning removed.
            return None
        if owner == "Trainer" and row.support is not Support.BACKED and name in self._set_on_trainer:
            # The user's code reads back its own attribute of the trainer.
            return None
        return row.support, row.sentence


def _finding(place: Place, member: str, support: Support, sentence: str, role: Role, spelling: str) -> Finding:
    return Finding(place.file, place.line, member, support, sentence, role, spelling, place.module)
