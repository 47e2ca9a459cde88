"""The registry of patches, on classes of the tests' own."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable
from typing import Any, NoReturn
from unittest import mock

import pytest
import wrapt
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightning_shim import PatchError, PatchWarning
from lightning_shim.patching.registry import PatchRegistry

MISSING = object()


def make_classes() -> tuple[Any, Any, Any]:
    """A hierarchy that has an entry of each kind, inherited, overridden and not."""

    class Base:
        __slots__ = ("slot",)
        number = 1
        nothing = None

        def method(self) -> str:
            return "method"

        @classmethod
        def class_method(cls) -> type:
            return cls

        @staticmethod
        def static_method() -> str:
            return "static"

        @property
        def text(self) -> str:
            return str(self.slot)

        @text.setter
        def text(self, value: str) -> None:
            self.slot = value

        @text.deleter
        def text(self) -> None:
            del self.slot

    class Middle(Base):
        def method(self) -> str:
            return f"middle {super().method()}"

        @property
        def text(self) -> str:
            return "middle"

    class Leaf(Middle):
        pass

    return Base, Middle, Leaf


NAMES = ("slot", "number", "nothing", "method", "class_method", "static_method", "text")
Entries = list[dict[str, object]]


def entries_of(*owners: type) -> Entries:
    return [dict(vars(owner)) for owner in owners]


def assert_same_entries(owners: tuple[type, ...], before: Entries) -> None:
    for owner, entries in zip(owners, before, strict=True):
        present = dict(vars(owner))
        assert present.keys() == entries.keys()
        assert [name for name, entry in entries.items() if present[name] is not entry] == []


def replacement(_: object) -> object:
    return mock.sentinel.replacement


def theirs(*_: object) -> str:
    return "theirs"


@pytest.fixture
def registry() -> PatchRegistry:
    return PatchRegistry()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 1, 2], ids=["base", "middle", "leaf"])
def test_entry_is_replaced_and_restored(registry: PatchRegistry, level: int, name: str) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    given: list[object] = []

    def keep(present: object) -> object:
        given.append(present)
        return mock.sentinel.replacement

    registry.wrap(owners[level], name, keep)
    assert len(given) == 1
    # The entry itself, of the class that has it: not a bound method, nor what a property answers.
    assert any(entries.get(name) is given[0] for entries in before)
    assert vars(owners[level])[name] is mock.sentinel.replacement
    registry.revert()
    assert_same_entries(owners, before)


def test_restored_members_do_what_they_did(registry: PatchRegistry) -> None:
    base, middle, leaf = make_classes()
    for owner in (base, leaf):
        for name in NAMES:
            registry.wrap(owner, name, replacement)
    registry.revert()
    instance = base()
    instance.text = "set"
    assert instance.text == "set"
    del instance.text
    assert not hasattr(instance, "slot")
    assert (base.class_method(), middle.class_method(), leaf.class_method()) == (base, middle, leaf)
    assert leaf.static_method() == "static"
    assert leaf().method() == "middle method"


def test_inherited_entry_is_inherited_again(registry: PatchRegistry) -> None:
    base, middle, leaf = make_classes()
    registry.wrap(leaf, "method", lambda present: wrapt.FunctionWrapper(present, lambda call, *_: f"ours {call()}"))
    assert leaf().method() == "ours middle method"
    registry.revert()
    middle.method = theirs
    assert leaf().method() == "theirs"
    assert base().method() == "method"


def test_second_wrap_does_nothing(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    registry.wrap(owners[0], "method", replacement)
    registry.wrap(owners[0], "method", lambda _: pytest.fail("it is wrapped already"))
    assert owners[0].method is mock.sentinel.replacement
    registry.revert()
    assert_same_entries(owners, before)


def test_second_revert_does_nothing(registry: PatchRegistry) -> None:
    owners = make_classes()
    registry.wrap(owners[0], "method", replacement)
    registry.revert()
    owners[0].method = theirs
    registry.revert()
    assert owners[0].method is theirs


def test_entry_is_wrapped_again_after_revert(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    for _ in range(3):
        registry.wrap(owners[2], "text", replacement)
        assert owners[2].text is mock.sentinel.replacement
        registry.revert()
        assert_same_entries(owners, before)


# What cannot be patched.


def refuse(_: object) -> NoReturn:
    raise ValueError("I refuse")


class Immutable(type):
    """A metaclass whose classes refuse new entries of some names."""

    def __setattr__(cls, name: str, value: object) -> None:
        if name == "fixed":
            raise TypeError("fixed it is")
        super().__setattr__(name, value)


class Partly(metaclass=Immutable):
    def changeable(self) -> None: ...

    def fixed(self) -> None: ...


@pytest.mark.parametrize(
    ("owner", "name", "make_replacement", "message"),
    [
        (Partly, "absent", replacement, r"test_registry\.Partly\.absent cannot be patched: there is no such attribute"),
        (Partly, "fixed", replacement, r"test_registry\.Partly\.fixed cannot be patched: fixed it is"),
        (Partly, "changeable", refuse, r"test_registry\.Partly\.changeable cannot be patched: I refuse"),
        (int, "bit_length", replacement, r"builtins\.int\.bit_length cannot be patched: "),
    ],
    ids=["absent", "refused by the class", "refused by the replacement", "refused by a built-in"],
)
def test_failure_is_a_patch_error(
    registry: PatchRegistry, owner: type, name: str, make_replacement: Callable[[Any], object], message: str
) -> None:
    before = entries_of(owner)
    with pytest.raises(PatchError, match=message):
        registry.wrap(owner, name, make_replacement)
    assert_same_entries((owner,), before)
    registry.revert()
    assert_same_entries((owner,), before)


def test_failure_keeps_its_cause_and_what_was_there(registry: PatchRegistry) -> None:
    before = entries_of(Partly)
    registry.wrap(Partly, "changeable", replacement)
    with pytest.raises(PatchError) as failure:
        registry.wrap(Partly, "fixed", replacement)
    assert isinstance(failure.value.__cause__, TypeError)
    assert Partly.changeable is mock.sentinel.replacement
    registry.revert()
    assert_same_entries((Partly,), before)


def wrap_in_transaction(registry: PatchRegistry, *places: tuple[type, str], error: type[BaseException]) -> None:
    with registry.transaction():
        for owner, name in places:
            registry.wrap(owner, name, replacement)
        raise error


@pytest.mark.parametrize("error", [PatchError, RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_failed_transaction_undoes_itself(registry: PatchRegistry, error: type[BaseException]) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    with pytest.raises(error):
        wrap_in_transaction(registry, *itertools.product(owners, NAMES), error=error)
    assert_same_entries(owners, before)


def test_failed_transaction_undoes_only_itself(registry: PatchRegistry) -> None:
    owners = make_classes()
    registry.wrap(owners[0], "method", replacement)
    before = entries_of(*owners)
    with pytest.raises(PatchError):
        wrap_in_transaction(registry, (owners[0], "method"), (owners[0], "number"), error=PatchError)
    assert_same_entries(owners, before)
    assert owners[0].method is mock.sentinel.replacement


def test_transactions_nest(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    with registry.transaction():
        with registry.transaction():
            registry.wrap(owners[0], "method", replacement)
        with pytest.raises(PatchError):
            wrap_in_transaction(registry, (owners[0], "number"), error=PatchError)
        assert owners[0].method is mock.sentinel.replacement
        assert owners[0].number == 1
    assert owners[0].method is mock.sentinel.replacement
    registry.revert()
    assert_same_entries(owners, before)


def test_failed_transaction_undoes_those_in_it(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)

    def wrap_and_fail() -> None:
        with registry.transaction():
            with registry.transaction():
                registry.wrap(owners[0], "method", replacement)
            registry.wrap(owners[0], "absent", replacement)

    with pytest.raises(PatchError):
        wrap_and_fail()
    assert_same_entries(owners, before)


# Somebody else's patches.


def test_later_patch_is_reported_and_left(registry: PatchRegistry) -> None:
    owners = make_classes()
    base = owners[0]
    before = entries_of(*owners)
    for name in NAMES:
        registry.wrap(base, name, replacement)
    with mock.patch.object(base, "method", theirs):
        with pytest.warns(PatchWarning, match=r"make_classes\.<locals>\.Base\.method has been patched again") as record:
            registry.revert()
        assert len(record) == 1
        assert record[0].filename == __file__
        assert base().method() == "theirs"
        assert [name for name in NAMES if vars(base)[name] is not before[0][name]] == ["method"]
        with pytest.warns(PatchWarning, match="call lightning_shim.unpatch"):
            registry.revert()
    assert base.method is mock.sentinel.replacement
    registry.revert()
    assert_same_entries(owners, before)


def test_later_patch_of_an_inherited_entry(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    registry.wrap(owners[2], "method", replacement)
    with mock.patch.object(owners[2], "method", theirs), pytest.warns(PatchWarning, match=r"Leaf\.method"):
        registry.revert()
    registry.revert()
    assert_same_entries(owners, before)


def test_later_patch_is_wrapped_only_once(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    registry.wrap(owners[0], "method", replacement)
    with mock.patch.object(owners[0], "method", theirs):
        registry.wrap(owners[0], "method", lambda _: pytest.fail("ours is beneath"))
        assert owners[0].method is theirs
    registry.revert()
    assert_same_entries(owners, before)


def test_warning_as_an_error_loses_nothing(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    for name in NAMES:
        registry.wrap(owners[0], name, replacement)
    # The configuration of the tests turns the warning into an error.
    with mock.patch.object(owners[0], "method", theirs), pytest.raises(PatchWarning):
        registry.revert()
    assert [name for name in NAMES if vars(owners[0])[name] is not before[0][name]] == ["method"]
    registry.revert()
    assert_same_entries(owners, before)


def test_failed_transaction_leaves_their_patch(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    patch_of_theirs = mock.patch.object(owners[0], "method", theirs)

    def wrap_and_fail() -> None:
        with registry.transaction():
            registry.wrap(owners[0], "number", replacement)
            registry.wrap(owners[0], "method", replacement)
            patch_of_theirs.start()
            registry.wrap(owners[0], "absent", replacement)

    with pytest.raises(PatchError):
        wrap_and_fail()
    assert owners[0].method is theirs
    assert owners[0].number == 1
    patch_of_theirs.stop()
    registry.revert()
    assert_same_entries(owners, before)


def test_entry_that_somebody_else_restored_is_wrapped_again(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    registry.wrap(owners[0], "method", replacement)
    owners[0].method = before[0]["method"]
    assert_same_entries(owners, before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchWarning)
        registry.revert()
    registry.wrap(owners[0], "method", replacement)
    assert owners[0].method is mock.sentinel.replacement


def test_inherited_entry_that_somebody_else_removed_is_wrapped_again(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    registry.wrap(owners[2], "method", replacement)
    del owners[2].method
    assert_same_entries(owners, before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchWarning)
        registry.revert()
    registry.wrap(owners[2], "method", replacement)
    assert owners[2].method is mock.sentinel.replacement


def test_their_undo_by_getattr_and_setattr_gives_ours_back(registry: PatchRegistry) -> None:
    # The plainest way to undo a patch: what getattr gave is not what stood in the class, but a bound form of it.
    owners = make_classes()
    before = entries_of(*owners)
    registry.wrap(owners[0], "method", lambda present: wrapt.FunctionWrapper(present, lambda call, *_: call()))
    saved = owners[0].method
    owners[0].method = theirs
    with pytest.warns(PatchWarning):
        registry.revert()
    owners[0].method = saved
    registry.revert()
    assert_same_entries(owners, before)


# Threads, and any order of all of this.


def test_threads_wrap_once(registry: PatchRegistry) -> None:
    owners = make_classes()
    before = entries_of(*owners)
    made: list[object] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def keep(present: object) -> object:
        made.append(present)
        return mock.sentinel.replacement

    def work() -> None:
        try:
            barrier.wait()
            with registry.transaction():
                for owner in owners:
                    for name in NAMES:
                        registry.wrap(owner, name, keep)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(made) == len(owners) * len(NAMES)
    registry.revert()
    assert_same_entries(owners, before)


Place = tuple[int, str]
places = st.tuples(st.integers(0, 2), st.sampled_from(NAMES))


class RegistryMachine(RuleBasedStateMachine):
    """Wraps, failing transactions, other people's patches and reverts in any order, against a stack for each entry."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = PatchRegistry()
        self.owners = make_classes()
        self.before = entries_of(*self.owners)
        self.stacks: dict[Place, list[object]] = {
            (level, name): [entries.get(name, MISSING)] for level, entries in enumerate(self.before) for name in NAMES
        }
        self.ours: dict[Place, object] = {}
        self.theirs: list[Place] = []

    def is_ours_on_top(self, place: Place) -> bool:
        return self.stacks[place][-1] is self.ours.get(place, MISSING) and place in self.ours

    @rule(place=places)
    def wrap(self, place: Place) -> None:
        level, name = place
        replacement = object()
        self.registry.wrap(self.owners[level], name, lambda _: replacement)
        if place not in self.ours:
            self.ours[place] = replacement
            self.stacks[place].append(replacement)

    @rule(wrapped=st.lists(places, max_size=4))
    def fail_in_transaction(self, wrapped: list[Place]) -> None:
        with pytest.raises(PatchError):
            wrap_in_transaction(
                self.registry, *((self.owners[level], name) for level, name in wrapped), error=PatchError
            )

    @rule(place=places)
    def somebody_patches(self, place: Place) -> None:
        level, name = place
        self.stacks[place].append(object())
        setattr(self.owners[level], name, self.stacks[place][-1])
        self.theirs.append(place)

    @precondition(lambda self: self.theirs and not self.is_ours_on_top(self.theirs[-1]))
    @rule()
    def somebody_unpatches(self) -> None:
        place = self.theirs.pop()
        level, name = place
        self.stacks[place].pop()
        if self.stacks[place][-1] is MISSING:
            delattr(self.owners[level], name)
        else:
            setattr(self.owners[level], name, self.stacks[place][-1])

    @rule()
    def revert(self) -> None:
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            self.registry.revert()
        restored = [place for place in self.ours if self.is_ours_on_top(place)]
        for place in restored:
            self.stacks[place].pop()
            del self.ours[place]
        assert [warning.category for warning in record] == [PatchWarning] * len(self.ours)
        if not self.theirs:
            assert not self.ours
            assert_same_entries(self.owners, self.before)

    @invariant()
    def entries_are_on_top(self) -> None:
        for (level, name), stack in self.stacks.items():
            assert vars(self.owners[level]).get(name, MISSING) is stack[-1]


TestAnyOrder = RegistryMachine.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, database=None)
