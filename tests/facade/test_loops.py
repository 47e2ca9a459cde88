"""The parts of ``self.trainer``: the same values as in Lightning's Trainer, at the same moments."""

from __future__ import annotations

import functools
import operator
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

import lightning_shim
from lightning_shim import RefusedMemberError
from lightning_shim.compatibility.inspection import inspect_members
from lightning_shim.members.member import Support
from lightning_shim.members.trainer_parts import SETTABLE, TRAINER_PARTS, instead_of
from tests.support.hooks import HOOKS_OF_FIT
from tests.support.lightning_trainer import NO_SANITY_CHECK, fit_by_lightning
from tests.support.places import place_in
from tests.support.refusals import train
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))

PLAIN = sorted(
    f"{part.removeprefix('Trainer.')}.{name}"
    for part, names in TRAINER_PARTS.items()
    for name in names
    if part.startswith("Trainer.fit_loop") and f"{part}.{name}" not in TRAINER_PARTS
)


def reads(pl: ModuleType) -> type:
    """Makes a module that reads all numbers of the loops in each hook."""

    class Reads(tiny(pl)):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, dict[str, Any]]] = []

        def read(self, hook: str) -> None:
            values = {path: operator.attrgetter(path)(self.trainer) for path in PLAIN}
            self.seen.append((hook, {path: value for path, value in values.items() if isinstance(value, (int, float))}))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", batch[0].sum())

    def reading(hook: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.read(hook)
            return getattr(super(Reading, self), hook)(*args, **kwargs)

        return method

    Reading = type("Reading", (Reads,), {hook: reading(hook) for hook in HOOKS_OF_FIT})
    return Reading


def data() -> tuple[Any, Any]:
    return loader(12), loader(8)


def test_numbers_of_the_loops(pl: ModuleType) -> None:
    seen = []
    for fit in (
        lambda module: fit_by_lightning(pl, module, *data(), max_epochs=2, log_every_n_steps=1),
        lambda module: lightning_shim.fit(
            module, *data(), max_length=pytorch.Epoch(2), reporting_period=pytorch.Batch(1), **NO_SANITY_CHECK
        ),
    ):
        module = reads(pl)()
        fit(module)
        seen.append(module.seen)
    lightnings, ours = seen
    assert [hook for hook, _ in ours] == [hook for hook, _ in lightnings]
    for index, ((hook, expected), (_, found)) in enumerate(zip(lightnings, ours, strict=True)):
        assert found == expected, f"{hook}, the {index}th hook"


@pytest.mark.lightning(">=2.5")  # Before, the Trainer goes on elsewhere in the epoch.
def test_restarting_from_lightnings_checkpoint(pl: ModuleType, tmp_path: Path) -> None:
    checkpoint = tmp_path / "saved.ckpt"

    class Saves(tiny(pl)):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                self.trainer.save_checkpoint(checkpoint)

    class Reads(tiny(pl)):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            loop = self.trainer.fit_loop
            vars(self).setdefault("seen", []).append((loop.restarting, loop.epoch_loop.restarting))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.on_train_batch_start(batch, batch_idx)

    fit_by_lightning(pl, Saves(), loader(), max_epochs=1)
    lightnings, ours = Reads(), Reads()
    with warnings.catch_warnings():
        # Lightning says that its loader starts anew within the epoch.
        warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        fit_by_lightning(pl, lightnings, loader(), max_epochs=2, ckpt_path=checkpoint)
        lightning_shim.fit(ours, loader(), max_length=pytorch.Epoch(2), ckpt_path=checkpoint)
    assert ours.seen == lightnings.seen
    assert ours.seen[0] == (True, True)


class TestObjects:
    def test_loaders_and_sources(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def train_dataloader(self) -> Any:
                return loader()

            def on_train_epoch_start(self) -> None:
                fit_loop = self.trainer.fit_loop
                combined, source = fit_loop._combined_loader, fit_loop._data_source
                validation = fit_loop.epoch_loop.val_loop._data_source
                self.seen = (
                    [type(each.dataset) for each in combined.flattened],
                    combined.limits,
                    combined.iterables is self.trainer.train_dataloader,
                    type(source.dataloader()),
                    source.is_module(),
                    validation.is_defined(),
                    validation.is_module(),
                    self.trainer.strategy.launcher,
                )

        lightnings, ours = Module(), Module()
        fit_by_lightning(pl, lightnings, max_epochs=1)
        train(ours)
        assert ours.seen == lightnings.seen

    def test_results(self, pl: ModuleType) -> None:
        class Module(tiny(pl)):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("one", 1.0 + batch_idx, on_step=True, on_epoch=True, prog_bar=True)
                loop = self.trainer.fit_loop
                for results in (self.trainer._results, loop._results, loop.epoch_loop._results):
                    vars(self).setdefault("seen", []).append(
                        (
                            results.batch is batch,
                            results.batch_size,
                            results.dataloader_idx,
                            results.metrics(on_step=True),
                            results.metrics(on_step=False),
                            loop.epoch_loop.val_loop._results.batch,
                        )
                    )
                return super().training_step(batch, batch_idx)

        lightnings, ours = Module(), Module()
        fit_by_lightning(pl, lightnings, loader(), max_epochs=1)
        train(ours, loader(), max_length=pytorch.Epoch(1))
        assert ours.seen == lightnings.seen

    def test_every_path_is_in_lightning_too_and_answered(self, pl: ModuleType) -> None:
        lightnings = fit_by_lightning(pl, tiny(pl)(), loader(), max_epochs=1)
        lightnings.state.fn = pl.trainer.states.TrainerFn.FITTING
        lightnings.training = True
        ours = train(tiny(pl)(), loader()).trainer
        for part, names in TRAINER_PARTS.items():
            for trainer in (lightnings, ours):
                owner = operator.attrgetter(part.removeprefix("Trainer."))(trainer)
                missing = {name for name in names if not hasattr(owner, name)}
                # Those of a strategy for several processes.
                assert missing <= ({"node_rank", "num_nodes"} if owner is lightnings.strategy else set()), part

    def test_other_members_are_refused(self, pl: ModuleType) -> None:
        trainer = train(tiny(pl)(), loader()).trainer
        for part in TRAINER_PARTS:
            if part != "Trainer.strategy":
                owner = operator.attrgetter(part.removeprefix("Trainer."))(trainer)
                assert not hasattr(owner, "no_such_thing")
                for act in (lambda owner: owner.no_such_thing, lambda owner: setattr(owner, "min_epochs", 1)):
                    with pytest.raises(RefusedMemberError) as caught:
                        act(owner)
                    assert str(caught.value).endswith(instead_of(part))


class TestCheck:
    def test_the_whole_path_is_judged(self, pl: ModuleType) -> None:
        class Module(pl.LightningModule):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loop = self.trainer.fit_loop
                ready = loop.epoch_loop.batch_progress.current.ready  # here: backed
                loop.epoch_loop.batch_progress.current.ready = 0  # here: set
                loop.max_epochs = 3  # here: settable
                loop.epoch_loop.optimizer_loop.run(ready)  # here: unknown
                self.trainer.strategy.process_group_backend  # noqa: B018  # here: of strategy
                self.trainer.fit_loop._combined_loader.flattened  # noqa: B018  # here: loader
                return hasattr(loop, "prefetcher") and loop.prefetcher  # here: guarded

        found = {f"{finding.file}:{finding.line}": finding for finding in inspect_members(Module).findings}
        loop = "trainer.fit_loop"
        for marker, spelling, support in (
            ("backed", f"{loop}.epoch_loop.batch_progress.current.ready", Support.BACKED),
            ("set", f"{loop}.epoch_loop.batch_progress.current.ready", Support.REFUSED),
            ("settable", f"{loop}.max_epochs", Support.BACKED),
            ("unknown", f"{loop}.epoch_loop.optimizer_loop", Support.REFUSED),
            ("of strategy", "trainer.strategy.process_group_backend", Support.REFUSED),
            ("loader", f"{loop}._combined_loader", Support.BACKED),
            ("guarded", f"{loop}.prefetcher", Support.NATIVE),
        ):
            finding = found[place(marker)]
            assert (finding.spelling, finding.support) == (spelling, support), marker

    def test_settable_is_settable(self, pl: ModuleType) -> None:
        """What ``check`` calls settable is a property with a setter, so that setting it has its effect."""
        trainer = train(tiny(pl)(), loader()).trainer
        for path in SETTABLE:
            *owners, name = path.split(".")
            owner = operator.attrgetter(".".join(owners[1:]))(trainer)
            assert getattr(type(owner), name).fset is not None, path
