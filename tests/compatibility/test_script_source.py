"""What ``check`` says of a script that it reads is what the script meets when it runs."""

from __future__ import annotations

import json
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest

import lightning_shim
from lightning_shim import ConfigurationError, DifferenceWarning
from lightning_shim.cli.main import main
from lightning_shim.compatibility.script_source import inspect_script
from lightning_shim.members.member import Support
from lightning_shim.user_code.project import Project

ARGUMENTS = {
    "devices": 2,
    "num_nodes": 2,
    "strategy": "fsdp",
    "barebones": True,
    "max_epochs": 3,
    "deterministic": True,
    "gradient_clip_val": 0.5,
    "profiler": None,
    "sync_batchnorm": False,
    "callbacks": [],
}

SCRIPT = """
import argparse

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder
from lightning.pytorch.strategies import FSDPStrategy
from mine import Own, Watch

parser = argparse.ArgumentParser()
parser.add_argument("--plugins", default=None)
strategy = FSDPStrategy()
parser.add_argument("--barebones", action="store_true")
options = parser.parse_args()
more = {"devices": 2}
raise SystemExit("a check runs nothing of this")
trainer = Trainer(
    strategy=strategy,
    plugins=options.plugins,
    barebones=options.barebones,
    accelerator=choose(),
    callbacks=[EarlyStopping("loss"), LearningRateFinder(), Watch(), Own("loss")],
    unknown=1,
    **more,
)
"""

MINE = """
import lightning.pytorch as pl


class Watch(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        pass

    def on_predict_start(self, trainer, pl_module):
        pass


class Own(pl.callbacks.EarlyStopping):
    pass


if __name__ == "__main__":
    pl.Trainer(num_nodes=2)
"""


def findings(path: Path) -> dict[str, tuple[str, int, Support, str]]:
    [report] = inspect_script(Project(path))
    return {each.member: (Path(each.file).name, each.line, each.support, each.sentence) for each in report.findings}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_argument_is_what_the_script_meets(tmp_path: Path, name: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"import pytorch_lightning as pl\npl.Trainer(\n    logger=False,\n    {name}={ARGUMENTS[name]!r})\n"
    )
    found = findings(script).get(f"Trainer({name})")
    met: list[str] = []
    with lightning_shim.patched(trainer=True), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            runpy.run_path(str(script))
        except ConfigurationError as error:
            met.append(str(error).partition(": ")[2])
    met += [str(each.message) for each in caught if issubclass(each.category, DifferenceWarning)]
    words = {Support.REFUSED: "refused", Support.IGNORED: "ignored"}
    if found is not None and found[2] in words:
        assert met == [f"Trainer({name}={ARGUMENTS[name]!r}) is {words[found[2]]}: {found[3]}"]
        assert found[:2] == ("train.py", 4)
    else:
        assert met == []
        assert (found is None) == (not ARGUMENTS[name])


def test_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    found = {name: each[:3] for name, each in findings(tmp_path / "train.py").items()}
    assert found == {
        "Trainer(strategy)": ("train.py", 17, Support.REFUSED),
        "Trainer(accelerator)": ("train.py", 20, Support.IGNORED),
        "Trainer(callbacks)": ("train.py", 21, Support.BACKED),
        "callbacks.EarlyStopping": ("train.py", 21, Support.NATIVE),
        "callbacks.LearningRateFinder": ("train.py", 21, Support.REFUSED),
        "Callback.on_predict_start": ("mine.py", 9, Support.IGNORED),
    }
    assert main(["check", "train.py"]) == 1
    printed = capsys.readouterr().out
    assert "train.py is refused: fix the 2 refused members" in printed
    assert "The source of more (train.py:16) could not be read" in printed


def test_classes_of_a_script_are_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "import pytorch_lightning as pl\n\n\nclass LitModel(pl.LightningModule):\n"
        "    def training_step(self, batch):\n        return self.trainer.nothing\n\n\n"
    )
    (tmp_path / "guarded.py").write_text(f'{source}if __name__ == "__main__":\n    pl.Trainer(max_epochs=1)\n')
    (tmp_path / "training.py").write_text(f"{source}trainer = pl.Trainer(max_epochs=1)\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def names(target: str, exit_code: int) -> list[Any]:
        assert main(["check", target, "--json"]) == exit_code
        return [report["name"] for report in json.loads(capsys.readouterr().out)["reports"]]

    assert names("guarded.py", 1) == ["guarded.py", "LitModel"]
    assert main(["check", "training.py"]) == 0
    printed = capsys.readouterr()
    assert "training.py trains on Determined (1 backed)." in printed.out
    assert "training.py: its classes are not checked, since their import would train." in printed.err
