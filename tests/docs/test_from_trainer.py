"""The page for those who come from Lightning's Trainer leaves nothing out, and promises nothing that is not there."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from determined import pytorch
from torch import Tensor

import lightning_shim
from lightning_shim.members.trainer_arguments import ARGUMENTS
from lightning_shim.trial import fit as launch
from lightning_shim.trial.fit import OPTIONS
from tests.parity.modules import Regression, loaders
from tests.support.repository import REPOSITORY
from tools import trainer_page
from tools.trainer_page import INSTEAD_IN_FIT, trainer_table, with_table

PAGE = (REPOSITORY / "docs" / "from_trainer.md").read_text()


def rows(heading: str) -> dict[str, str]:
    """What is said of each argument below a heading, for those who call `fit`."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|(?: .+ \|)?$", section, flags=re.MULTILINE))


OF_TRAINER = rows("Arguments of `pl.Trainer`")
OF_FIT = rows("Arguments of `trainer.fit`")


def test_table_of_the_trainer_is_fresh() -> None:
    assert with_table(PAGE) == PAGE, (
        "docs/from_trainer.md is out of date; refresh it with: python tools/trainer_page.py"
    )


def test_running_the_tool_writes_the_table(tmp_path: Path) -> None:
    # A copy, which writes beside itself and not into this repository.
    copy, page = tmp_path / "tools" / "trainer_page.py", tmp_path / "docs" / "from_trainer.md"
    copy.parent.mkdir()
    page.parent.mkdir()
    shutil.copy(trainer_page.__file__, copy)
    page.write_text(PAGE.replace(trainer_table(), "| an old table |\n"))
    subprocess.run([sys.executable, copy], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=True)
    assert page.read_text() == PAGE


def test_tool_replaces_only_arguments_that_there_are() -> None:
    assert set(INSTEAD_IN_FIT) <= set(ARGUMENTS)


@pytest.mark.lightning(">=2.6")
def test_every_argument_of_the_trainer_has_a_row() -> None:
    assert list(OF_TRAINER) == list(inspect.signature(pl.Trainer).parameters)


@pytest.mark.lightning(">=2.6")
def test_every_argument_of_its_fit_has_a_row() -> None:
    assert ["self", *OF_FIT] == list(inspect.signature(pl.Trainer.fit).parameters)


def test_options_that_are_named_exist() -> None:
    # And each option replaces something.
    assert set(re.findall(r"\bfit\((\w+)=", PAGE)) == set(OPTIONS)


@pytest.mark.parametrize("argument", sorted(OF_TRAINER))
def test_what_has_lightnings_name_is_said_to(argument: str) -> None:
    assert (f"`fit({argument}=" in OF_TRAINER[argument]) is (argument in OPTIONS)


def test_errors_say_no_more_than_the_page() -> None:
    assert launch._INSTEAD_OF.keys() <= {*OF_TRAINER, *OF_FIT} - set(OPTIONS)
    for argument, instead in launch._INSTEAD_OF.items():
        for option in re.findall(r"Pass (\w+)", instead):
            assert f"`fit({option}=" in {**OF_TRAINER, **OF_FIT}[argument]


def test_readme_leads_there() -> None:
    assert "(docs/from_trainer.md)" in (REPOSITORY / "README.md").read_text()


def test_link_to_the_callbacks_leads_somewhere() -> None:
    (heading,) = re.findall(r"\(\.\./SUPPORT\.md#([\w-]+)\)", PAGE)
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "SUPPORT.md").read_text(), flags=re.MULTILINE)
    assert heading in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


class HasMoreLoops(Regression):
    """Has what no trial calls, which the trial warns of."""

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])


@pytest.mark.usefixtures("patched")
def test_lightnings_trainer_does_the_rest() -> None:
    with pytest.warns(lightning_shim.LightningShimWarning, match=r"(test|predict)_step is ignored"):
        trial = lightning_shim.fit(HasMoreLoops, **loaders(), max_length=pytorch.Epoch(1), checkpoint_policy="none")
    val_loader = loaders()["val_dataloaders"]
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    validated, tested = (run(trial.module, val_loader, verbose=False) for run in (trainer.validate, trainer.test))
    assert validated[0]["val_loss"] == tested[0]["test_loss"] == trial.metrics["val_loss"]
    assert [len(batch) for batch in trainer.predict(trial.module, val_loader)] == [4, 4, 2]
