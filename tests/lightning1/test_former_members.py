"""Hooks, signatures and attributes that were gone before Lightning 1.9, and what 1.x code may get wrong.

The orders and values are those of Lightning 1.4, which does not run beside today's PyTorch.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from determined import pytorch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from lightning_shim import ConfigurationError
from lightning_shim.lightning1.attributes import OF_MODULE, OF_TRAINER
from tests.lightning1.modules import Former, Gan, Recurrent, numbers
from tests.support.lightning_trainer import NO_SANITY_CHECK
from tests.support.places import place_in


def place(marker: str) -> str:
    return place_in(Path(__file__), marker)


def train(module: Any, **options: Any) -> Any:
    with lightning_shim.patched():
        return lightning_shim.fit(
            module,
            **{
                "max_length": pytorch.Epoch(1),
                "reporting_period": pytorch.Batch(1),
                "checkpoint_policy": "none",
                **NO_SANITY_CHECK,
                **options,
            },
        )


class OneBatch(Former):
    """Trains on one batch, and validates on one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def train_dataloader(self) -> Any:
        return DataLoader(numbers(2, 1), batch_size=2)

    def val_dataloader(self) -> Any:
        return DataLoader(numbers(2, 2), batch_size=2)


class ReadsPrecision(OneBatch):
    """Can be pickled, as no class can that a function defines."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch) * (1 if self.precision == 32 else 0)


def saying(seen: list[Any], name: str) -> Any:
    return lambda self, *args: seen.append(name)


class TestHooks:
    ORDER = (
        "on_fit_start",
        "on_pretrain_routine_start",
        "on_pretrain_routine_end",
        "on_train_start",
        "on_epoch_start",
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_epoch_start",
        "on_validation_epoch_start",
        "on_validation_epoch_end",
        "on_epoch_end",
        "on_train_epoch_end",
        "on_epoch_end",
    )

    def test_order_on_the_module(self) -> None:
        seen: list[Any] = []
        module_class = type("All", (OneBatch,), {name: saying(seen, name) for name in self.ORDER})
        train(module_class())
        assert tuple(seen) == self.ORDER

    def test_order_on_a_callback(self) -> None:
        seen: list[Any] = []
        hooks = {name: saying(seen, name) for name in (*self.ORDER, "on_batch_start", "on_batch_end")}
        train(OneBatch(), callbacks=[type("All", (pl.Callback,), hooks)()])
        expected = list(self.ORDER)
        expected.insert(expected.index("on_train_batch_start"), "on_batch_start")
        expected.insert(expected.index("on_train_batch_end") + 1, "on_batch_end")
        assert seen == expected

    def test_called_by_somebody_else(self) -> None:
        class Calls(pl.Callback):
            def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
                module.on_epoch_end()

        class Own(OneBatch):
            def on_epoch_end(self) -> None:
                self.seen.append("called")

        module = Own()
        train(module, callbacks=[Calls()])
        assert module.seen == ["called"]

    def test_logged_from(self) -> None:
        class Logs(OneBatch):
            def on_epoch_end(self) -> None:
                self.log("at_the_end", 3.0)

        assert train(Logs()).metrics["at_the_end"] == 3.0


class TestSignatures:
    def test_of_the_module(self) -> None:
        class Signatures(OneBatch):
            def transfer_batch_to_device(self, batch: Any, device: Any) -> Any:
                self.seen.append(("transfer", device))
                return super().transfer_batch_to_device(batch, device, 0)

            def on_after_batch_transfer(self, batch: Any) -> Any:
                self.seen.append("after")
                return batch

            def on_train_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
                self.seen.append(("train start", batch_idx, dataloader_idx))

            def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, unused: int) -> None:
                self.seen.append(("train end", sorted(outputs), batch_idx, unused))

            def on_train_epoch_end(self, outputs: Any) -> None:
                self.seen.append(("train epoch end", [sorted(output) for output in outputs]))

            def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
                self.seen.append(("validation start", batch_idx, dataloader_idx))

            def optimizer_step(
                self,
                current_epoch: int,
                batch_nb: int,
                optimizer: Any,
                optimizer_i: int,
                closure: Any,
                on_tpu: bool = True,
                using_native_amp: bool = True,
                using_lbfgs: bool = True,
            ) -> None:
                self.seen.append(("step", optimizer_i, on_tpu, using_native_amp, using_lbfgs))
                super().optimizer_step(
                    current_epoch, batch_nb, optimizer, optimizer_i, closure, on_tpu, using_native_amp, using_lbfgs
                )

        module = Signatures()
        train(module)
        device = torch.device("cpu")
        assert module.seen == [
            ("transfer", device),
            "after",
            ("train start", 0, 0),
            ("step", 0, False, False, False),
            ("train end", ["loss"], 0, 0),
            ("transfer", device),
            "after",
            ("validation start", 0, 0),
            ("train epoch end", [["loss"]]),
        ]

    def test_of_a_callback(self) -> None:
        seen = []

        class Old(pl.Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: Any, unused: Any) -> None:
                seen.append((type(module), batch_idx, unused))

            def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any, opt_idx: Any) -> None:
                seen.append(opt_idx)

            def on_train_epoch_end(self, trainer: Any, module: Any, outputs: Any) -> None:
                seen.append(len(outputs))

        train(OneBatch(), callbacks=[Old()])
        assert seen == [(OneBatch, 0, 0), 0, 1]

    def test_optimizer_that_manual_backward_does_not_need(self) -> None:
        class Manual(OneBatch):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                optimizer = self.optimizers()
                self.toggle_optimizer(optimizer, 0)
                self.manual_backward(self.loss(batch), optimizer)
                optimizer.step()
                self.untoggle_optimizer(0)
                self.seen.append([parameter.requires_grad for parameter in self.parameters()])

        module = Manual()
        train(module)
        assert module.seen == [[True] * 4]

    def test_those_of_lightning_2_are_left_alone(self) -> None:
        class New(OneBatch):
            def configure_gradient_clipping(
                self, optimizer: Any, gradient_clip_val: Any, gradient_clip_algorithm: Any
            ) -> None:
                self.seen.append((gradient_clip_val, gradient_clip_algorithm))

            def backward(self, loss: Tensor, optimizer: Any = None) -> None:
                self.seen.append(optimizer)
                loss.backward()

        module = New()
        train(module, gradient_clip_val=0.5, gradient_clip_algorithm="value")
        assert module.seen == [None, (0.5, "value")]

    def test_arguments_of_backward_are_passed_on(self) -> None:
        class Twice(OneBatch):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                loss = self.loss(batch)
                self.manual_backward(loss, None, True)
                self.manual_backward(loss)
                self.seen.append(self.trainer.ckpt_path)

        module = Twice()
        train(module)
        assert module.seen == [None]

    def test_index_that_has_a_default(self) -> None:
        class Optional(OneBatch):
            def training_step(self, batch: Any, batch_idx: int, optimizer_idx: Any = None) -> Any:
                self.seen.append(optimizer_idx)
                return self.loss(batch)

        module = Optional()
        train(module)
        assert module.seen == [None]

    def test_arguments_of_log(self) -> None:
        class Logs(OneBatch):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("value", 2.0, tbptt_reduce_fx=torch.mean, tbptt_pad_token=0)
                self.log_dict({"other": 3.0}, tbptt_reduce_fx=torch.mean)
                return self.loss(batch)

        metrics = train(Logs()).metrics
        assert (metrics["value"], metrics["other"]) == (2.0, 3.0)


class TestAttributes:
    def test_of_the_module(self) -> None:
        class Reads(OneBatch):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.seen.append([self.use_amp, self.use_ddp, self.use_ddp2, self.use_dp, self.use_tpu, self.precision])
                return self.loss(batch)

        module = Reads()
        train(module, precision="bf16-mixed")
        assert module.seen == [[True, False, False, False, False, "bf16"]]
        for name in OF_MODULE:
            assert not hasattr(module, name)

    def test_own_ones_are_kept(self) -> None:
        class Owns(OneBatch):
            use_ddp = "own"

            def __init__(self) -> None:
                super().__init__()
                self.precision = torchmetrics.MeanSquaredError()
                self.use_amp = nn.Parameter(torch.ones(1))

            @property
            def use_dp(self) -> Any:
                raise AssertionError("it was run")

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.use_tpu = nn.Linear(1, 1)
                self.seen.append((self.precision, self.use_amp, self.use_ddp, self.use_tpu))
                return self.loss(batch)

        module = Owns()
        train(module)
        assert module.seen == [(module.precision, module.use_amp, "own", module.use_tpu)]

    def test_set_while_training_are_kept(self) -> None:
        class Sets(OneBatch):
            def setup(self, stage: str) -> None:
                self.datamodule = "own"
                self.register_buffer("precision", torch.ones(1))
                if not hasattr(self, "use_amp"):
                    self.use_amp = nn.Linear(1, 1)

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.seen.append((self.datamodule, self.precision, type(self.use_amp)))
                return self.loss(batch)

        module = Sets()
        train(module)
        assert module.seen == [("own", torch.ones(1), nn.Linear)]
        assert module.datamodule == "own"

    def test_of_a_fit_that_fails_are_forgotten(self) -> None:
        class Fails(OneBatch):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.seen.append(self.precision)
                if len(self.seen) == 1:
                    raise ZeroDivisionError
                return self.loss(batch)

        module = Fails()
        with pytest.raises(ZeroDivisionError):
            train(module)
        assert not hasattr(module, "precision")
        train(module, precision="bf16-mixed")
        assert module.seen == [32, "bf16"]

    def test_copies_have_them_and_nothing_else_of_the_trial(self) -> None:
        copies: list[Any] = []

        class Copies(pl.Callback):
            def on_validation_end(self, trainer: Any, module: Any) -> None:
                copies.extend([copy.deepcopy(module), pickle.loads(pickle.dumps(module))])

        module = ReadsPrecision()
        own = set(vars(module))
        train(module, callbacks=[Copies()])
        assert len(copies) == 2
        for copied in copies:
            assert vars(copied).keys() - own == {"precision"}
            assert copied.precision == 32
            assert vars(copied)["_trainer"] is None
        assert not hasattr(module, "precision")

    def test_inner_module(self) -> None:
        class Inner(Former):
            def reads(self) -> Any:
                return self.precision

        class Outer(OneBatch):
            def __init__(self) -> None:
                super().__init__()
                self.inner = Inner()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.seen.append(self.inner.reads())
                return self.loss(batch)

        module = Outer()
        train(module)
        assert module.seen == [32]

    def test_of_the_trainer(self) -> None:
        seen = []

        class Reads(OneBatch):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append({name: getattr(self.trainer, name) for name in OF_TRAINER})
                return self.loss(batch)

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

        module = Reads()
        trial = train(module)
        (values,) = seen
        (scheduler,) = values.pop("lr_schedulers")
        assert scheduler["scheduler"] is trial.trainer.lr_scheduler_configs[0].scheduler
        assert scheduler["interval"] == "epoch"
        assert values.pop("lightning_optimizers")[0].optimizer is trial.trainer.optimizers[0]
        assert values.pop("get_model")() is module
        ones = {"num_processes": 1, "devices": 1, "should_rank_save_checkpoint": True}
        zeros = {"gpus": 0, "num_gpus": 0}
        empty = {"optimizer_frequencies": [], "progress_bar_dict": {}}
        nones = (
            "tpu_cores",
            "ipus",
            "slurm_job_id",
            "resume_from_checkpoint",
            "data_parallel_device_ids",
            "root_gpu",
            "amp_backend",
            "distributed_backend",
            "early_stop_callback",
        )
        expected = {**dict.fromkeys(values, False), **ones, **zeros, **empty, **dict.fromkeys(nones)}
        assert values == expected


def test_module_that_splits_by_itself_is_left_alone() -> None:
    """Such as those that were rewritten for Lightning 2 and have kept the names."""

    class ByItself(Recurrent):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            hiddens = None
            for split in self.tbptt_split_batch(batch, self.truncated_bptt_steps):
                output = super().training_step(split, batch_idx, hiddens)
                hiddens = output["hiddens"]
            return output["loss"]

        def tbptt_split_batch(self, batch: Any, split_size: int) -> Any:
            inputs, targets = batch
            assert inputs.shape[1] == 6
            return [[part[:, start : start + split_size] for part in (inputs, targets)] for start in (0, 2, 4)]

        def training_epoch_end(self, outputs: Any) -> None:
            self.log("number", float(len(outputs)))

    assert train(ByItself()).metrics["number"] == 4.0


class TestReturnedMetrics:
    class Returns(Former):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return {
                "val_loss": torch.tensor(float(batch_idx)),
                "number": 3,
                "kept": torch.ones(1),
                "text": "a",
                "flag": True,
            }

    def test_average_is_reported(self) -> None:
        metrics = train(self.Returns()).metrics
        assert metrics["val_loss"] == 0.5
        assert metrics["number"] == 3.0
        assert not metrics.keys() & {"kept", "text", "flag"}

    def test_each_loader_has_its_own(self) -> None:
        class Several(self.Returns):  # type: ignore[misc,name-defined]
            number_of_val_loaders = 2

            def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
                return {"val_loss": 10.0 * dataloader_idx + batch_idx}

        metrics = train(Several()).metrics
        assert metrics["val_loss/dataloader_idx_0"] == 0.5
        assert metrics["val_loss/dataloader_idx_1"] == 10.5

    @pytest.mark.parametrize("hook", ["validation_epoch_end", "on_validation_epoch_end"])
    def test_what_is_logged_counts(self, hook: str) -> None:
        module = type("Logs", (self.Returns,), {hook: lambda self, *_: self.log("logged", 1.0)})()
        metrics = train(module).metrics
        assert metrics["logged"] == 1.0
        assert "val_loss" not in metrics


class TestMistakes:
    def test_no_hiddens(self) -> None:
        class Forgets(Recurrent):
            def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> Any:  # here: no hiddens
                return super().training_step(batch, batch_idx, hiddens)["loss"]

        with pytest.raises(ConfigurationError, match='returned no "hiddens"') as caught:
            train(Forgets())
        assert str(caught.value).startswith(place("no hiddens"))

    def test_no_common_length(self) -> None:
        class Unclear(Recurrent):
            def train_dataloader(self) -> Any:
                return DataLoader(TensorDataset(torch.ones(2, 4, 3), torch.ones(2, 5, 1)))

            def training_step(self, batch: Any, batch_idx: int, hiddens: Any) -> Any:  # here: no common length
                raise AssertionError("it was called")

        with pytest.raises(ConfigurationError, match=r"\[4, 5\] steps long. Define tbptt_split_batch") as caught:
            train(Unclear())
        assert str(caught.value).startswith(place("no common length"))

    @pytest.mark.parametrize("frequencies", [(1, None), (1, 0)])
    def test_frequencies(self, frequencies: Any) -> None:
        class Unclear(Gan):
            def configure_optimizers(self) -> Any:  # here: frequencies
                return tuple(
                    {"optimizer": optimizer} if frequency is None else {"optimizer": optimizer, "frequency": frequency}
                    for optimizer, frequency in zip(self.optimizers_of_parts(), frequencies, strict=True)
                )

        with pytest.raises(ConfigurationError, match='Give each optimizer a positive "frequency"') as caught:
            train(Unclear())
        assert str(caught.value).startswith(place("frequencies"))

    def test_several_optimizers_without_their_index(self) -> None:
        class Forgets(Gan):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
                raise AssertionError("it was called")

        with pytest.raises(ConfigurationError, match="returned 2 optimizers"):
            train(Forgets())
