"""What a trial says of its module when it is built: what the check finds, as errors and warnings."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

import lightning_shim
from lightning_shim import IgnoredMemberWarning, LightningShimWarning, RefusedMemberError, RefusedMemberWarning
from lightning_shim.members.member import Kind, Support
from lightning_shim.members.query import member, members
from tests.support.places import place_in
from tests.support.refusals import refuse, train, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))
OWNERS = ("LightningModule", "LightningDataModule", "Callback")
REFUSED_HOOKS = [row for owner in OWNERS for row in members(owner, Support.REFUSED) if row.kind is Kind.HOOK]
IGNORED_HOOKS = [row.name for row in members("LightningModule", Support.IGNORED) if row.kind is Kind.HOOK]


@contextlib.contextmanager
def recorded(action: str = "always") -> Iterator[list[tuple[str, type[Warning], str]]]:
    """Collects the warnings of ours: place, category and text."""
    found: list[tuple[str, type[Warning], str]] = []
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("ignore")
        warnings.simplefilter(action, LightningShimWarning)  # type: ignore[arg-type]
        yield found
    found += [(f"{entry.filename}:{entry.lineno}", entry.category, str(entry.message)) for entry in record]


def subjects(lightning: ModuleType, methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Makes a module, a data module and a callback that have the methods given for them."""
    data = {"train_dataloader": lambda self: loader(), **methods.get("LightningDataModule", {})}
    return {
        "LightningModule": type("Lit", (tiny(lightning),), methods.get("LightningModule", {}))(),
        "LightningDataModule": type("Data", (lightning.LightningDataModule,), data)(),
        "Callback": type("Watch", (lightning.Callback,), methods.get("Callback", {}))(),
    }


def refuse_hooks(made: dict[str, Any]) -> list[str]:
    module, datamodule, callback = (made[owner] for owner in OWNERS)
    return refuse(RefusedMemberError, module, datamodule=datamodule, callbacks=callback).splitlines()


class TestRefusedHooks:
    def test_error_names_all_of_them(self, lightning: ModuleType) -> None:
        def hook(self: Any, *args: Any) -> None: ...  # here: refused hooks

        made = subjects(
            lightning, {owner: {row.name: hook for row in REFUSED_HOOKS if row.owner == owner} for owner in OWNERS}
        )
        assert len(REFUSED_HOOKS) > 1
        assert sorted(refuse_hooks(made)) == sorted(
            f"{place('refused hooks')}: {type(made[row.owner]).__qualname__}.{row.name} is refused: {row.sentence}"
            for row in REFUSED_HOOKS
        )

    def test_set_on_an_object(self, pl: ModuleType) -> None:
        def hook(*args: Any) -> None: ...  # here: on the object

        row = REFUSED_HOOKS[0]
        made = subjects(pl, {})
        setattr(made[row.owner], row.name, hook)
        name = f"{type(made[row.owner]).__qualname__}.{row.name}"
        assert refuse_hooks(made) == [f"{place('on the object')}: {name} is refused: {row.sentence}"]


class TestUses:
    def test_are_warned_about_before_they_are_reached(self, lightning: ModuleType) -> None:
        class Lit(tiny(lightning)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if batch_idx > 1000:
                    self.trainer.validate_loop.reset()  # here: refused trainer
                    self.logger.sub_dir.strip()  # here: refused logger
                    self.device_mesh.size()  # here: refused on self
                return super().training_step(batch, batch_idx)

        class Data(lightning.LightningDataModule):
            def train_dataloader(self) -> Any:
                return loader() if self.trainer is not None else self.trainer.validate_loop  # here: refused in the data

        class Watch(lightning.Callback):
            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None:
                if batch_idx > 1000:
                    trainer.validate(pl_module)  # here: refused in a callback

        module = Lit()
        with recorded() as found:
            train(module, datamodule=Data(), callbacks=[Watch()])
        assert module.steps == 1
        expected = {
            "refused trainer": ("trainer.validate_loop", member("Trainer", "validate_loop").sentence),
            "refused logger": ("logger.sub_dir", member("Logger", "sub_dir").sentence),
            "refused on self": ("self.device_mesh", member("LightningModule", "device_mesh").sentence),
            "refused in the data": ("trainer.validate_loop", member("Trainer", "validate_loop").sentence),
            "refused in a callback": ("trainer.validate", member("Trainer", "validate").sentence),
        }
        assert found == [
            (place(marker), RefusedMemberWarning, f"{name} is refused when this line is reached: {sentence}")
            for marker, (name, sentence) in expected.items()
        ]

    def test_that_are_ignored_are_shown_once(self, pl: ModuleType) -> None:
        class Lit(tiny(pl)):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                assert self.trainer.test_dataloaders is None  # here: ignored trainer

        sentence = member("Trainer", "test_dataloaders").sentence
        shown = (place("ignored trainer"), IgnoredMemberWarning, f"trainer.test_dataloaders is ignored: {sentence}")
        # At the start and when the line is reached Python's own filters see the same warning.
        for action, count in (("default", 1), ("always", 1 + 4)):
            with recorded(action) as found:
                train(Lit(), loader(), max_length=pytorch.Batch(4))
            assert found == [shown] * count

    def test_that_work_or_are_not_reached_give_none(self, lightning: ModuleType) -> None:
        class Base(tiny(lightning)):
            def on_train_start(self) -> None:
                raise AssertionError(self.trainer.validate_loop)

        class Lit(Base):
            def on_train_start(self) -> None:
                if hasattr(self.trainer, "validate_loop"):
                    raise AssertionError(self.trainer.validate_loop)
                self.log("epoch", float(self.trainer.current_epoch))

            def nothing(self) -> Any:
                return getattr(self.trainer, "validate_loop", None)

        with recorded() as found:
            trains(Lit())
        assert found == []

    def test_in_hooks_that_are_not_called_give_none(self, pl: ModuleType) -> None:
        def hook(self: Any, *args: Any) -> Any:  # here: hook that is not called
            return self.trainer.validate_loop, self.trainer.test_dataloaders

        name = IGNORED_HOOKS[0]
        with recorded() as found:
            train(type("Lit", (tiny(pl),), {name: hook})(), loader())
        sentence = member("LightningModule", name).sentence
        assert found == [(place("hook that is not called"), IgnoredMemberWarning, f"Lit.{name} is ignored: {sentence}")]

    @pytest.mark.parametrize("category", [RefusedMemberWarning, LightningShimWarning])
    def test_pythons_filters_select_them(self, pl: ModuleType, category: type[Warning]) -> None:
        class Lit(tiny(pl)):
            def on_train_end(self) -> None:
                if self.steps > 1000:
                    self.trainer.validate_loop.reset()

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=category, module=__name__.replace(".", r"\."))
            train(Lit(), loader())
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=r"trainer\.validate_loop is refused", category=category)
            with pytest.raises(RefusedMemberWarning):
                train(Lit(), loader())

    def test_strict_raises(self, pl: ModuleType) -> None:
        class Lit(tiny(pl)):
            def on_train_end(self) -> None:
                self.trainer.validate_loop.reset()  # here: strict

        lightning_shim.patch(strict=True)
        message = refuse(lightning_shim.StrictModeError, Lit(), loader())
        assert message.startswith(f"{place('strict')}: trainer.validate_loop is refused when this line is reached: ")

    def test_what_is_warned_about_is_an_error_when_it_is_reached(self, pl: ModuleType) -> None:
        class Lit(tiny(pl)):
            def on_train_start(self) -> None:
                self.trainer.validate_loop.reset()  # here: reached

        with recorded() as found, pytest.raises(RefusedMemberError) as caught:
            train(Lit(), loader())
        assert [(where, category) for where, category, _ in found] == [(place("reached"), RefusedMemberWarning)]
        assert str(caught.value).startswith(f"{place('reached')}: trainer.validate_loop is refused: ")
