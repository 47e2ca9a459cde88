"""The command line, in a process of its own and as a user calls it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_shim
from lightning_shim.members.member import Support
from lightning_shim.members.query import member
from tests.support.places import place_in

ROOT = Path(lightning_shim.__file__).parents[1]

FINE = """
    import pytorch_lightning as pl
    import torch

    print("my_model is imported")


    class LitModel(pl.LightningModule):
        def training_step(self, batch, batch_idx):  # here: training_step
            return batch.sum()

        def configure_optimizers(self):
            steps = self.trainer.estimated_stepping_batches  # here: estimated_stepping_batches
            return torch.optim.SGD(self.parameters(), lr=1 / steps)
"""

IGNORED = """
    import lightning.pytorch as pl

    import lightning_shim

    lightning_shim.patch()


    class LitModel(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            self.log("loss", batch.sum())
            return batch.sum()

        @pl.utilities.rank_zero_only
        def test_step(self, batch, batch_idx):  # here: test_step
            self.log("loss", batch.sum())
"""

REFUSED = """
    from pytorch_lightning import Callback, LightningDataModule, LightningModule


    class Outer:
        class LitModel(LightningModule):
            def training_step(self, batch, batch_idx):
                return self.trainer.validate_loop.batch_idx  # here: validate_loop


    class LitData(LightningDataModule):
        def setup(self, stage):
            self.trainer.tune(self)


    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            pass


    Renamed = Watch
    watch = Watch()
    number = 3
"""


FILES = {
    "fine.py:LitModel": "fine.py",
    "models/inner.py": "models/layers.py",
    "models.layers:LitModel": "models/layers.py",
    "else where/lit.py:LitModel": "else where/neighbour.py",
    "refused:watch": "refused.py",
}
CANNOT = {
    "no_such_module:LitModel": "there is no module no_such_module.",
    "models.no_such_module": "there is no module models.no_such_module.",
    "no_such_file.py:LitModel": "there is no file no_such_file.py.",
    "refused:NoSuchModel": "refused has no NoSuchModel.",
    "refused:Outer.NoSuchModel": "refused has no Outer.NoSuchModel.",
    "refused:Outer": "refused:Outer is not a LightningModule, LightningDataModule or Callback.",
    "refused:number": "refused:number is not a LightningModule, LightningDataModule or Callback.",
    "else where/lit.py": "else where/lit.py defines no LightningModule, LightningDataModule or Callback.",
    "deep/torch.py:LitModel": "{project}/deep/torch.py cannot be imported, since there is another module torch: "
    "{torch}.",
}
IMPORT_ERRORS = {
    "no_syntax.py": "SyntaxError: invalid syntax (no_syntax.py, line 1)",
    "leaving": "SystemExit: 0",
    "importing": "ModuleNotFoundError: No module named 'no_such_package'",
}

Checked = dict[tuple[str, ...], tuple[int, str, str]]

pytestmark = pytest.mark.xdist_group("command line")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with modules of every kind."""
    folder = tmp_path_factory.mktemp("command_line") / "project"
    sources = {
        "fine.py": FINE,
        "ignored.py": IGNORED,
        "refused.py": REFUSED,
        "broken.py": "import pytorch_lightning\n\n\ndef helper():\n    return 1 / 0\n\n\nhelper()\n",
        "no_syntax.py": "def helper(:\n",
        "leaving.py": "import sys\nsys.exit(0)\n",
        "importing.py": "import no_such_package\n",
        "models/__init__.py": "",
        "models/inner.py": "from .layers import LitModel\nclass Derived(LitModel): pass\n",
        "models/layers.py": FINE,
        "else where/lit.py": "from neighbour import LitModel\n",
        "else where/neighbour.py": FINE,
        "deep/torch.py": "",
    }
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    return folder


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder, where neither Determined nor a terminal is."""
    blocked = folder.parent / "blocked" / "determined_checkpoints"
    blocked.mkdir(parents=True, exist_ok=True)
    (blocked / "__init__.py").write_text("raise ImportError('Determined is not installed here')\n")
    path = os.pathsep.join([str(blocked.parent), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, "-m", "lightning_shim", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


# In one process, since each costs seconds.
EACH = """
import contextlib, io, json, sys
from lightning_shim.cli.main import main
results = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["check", *arguments])
    results.append([code, out.getvalue(), err.getvalue().replace("my_model is imported\\n", "")])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def checked(project: Path) -> Checked:
    """Exit code, output and messages of several checks, by arguments."""
    targets = (*FILES, *CANNOT, *IMPORT_ERRORS, "refused", "refused:Outer.LitModel")
    arguments = [*((target,) for target in targets), ("refused", "--json")]
    command = [sys.executable, "-c", EACH, json.dumps(arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    finished = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    return dict(zip(arguments, map(tuple, json.loads(finished.stdout)), strict=True))


def fails(finished: subprocess.CompletedProcess[str]) -> str:
    """Expects exit code 2 and nothing on stdout, and returns the message."""
    assert finished.returncode == 2, finished
    assert finished.stdout == ""
    return finished.stderr


@pytest.mark.parametrize("extensions", [{}, {"WRAPT_DISABLE_EXTENSIONS": "1"}], ids=["C", "Python"])
def test_points_at_the_users_lines(project: Path, extensions: dict[str, str]) -> None:
    finished = run(project, "check", "ignored:LitModel", **extensions)
    assert (finished.returncode, finished.stderr) == (0, "")
    row = member("LightningModule", "test_step")
    line = place_in(project / "ignored.py", "test_step").removeprefix(f"{project}/")
    assert re.search(
        rf"^{re.escape(line)} +LightningModule\.test_step +ignored +{re.escape(row.sentence)}$", finished.stdout, re.M
    )
    assert finished.stdout.endswith(
        "\n\nLitModel trains on Determined, with 1 difference (1 called, 1 backed, 1 ignored).\n"
    )


class TestExitCode:
    def test_strict_counts_what_is_ignored(self, project: Path) -> None:
        finished = run(project, "check", "ignored:LitModel", "--strict")
        assert finished.returncode == 1
        assert "LitModel trains on Determined, with 1 difference" in finished.stdout

    def test_strict_and_fine(self, project: Path) -> None:
        finished = run(project, "check", "--strict", "fine:LitModel")
        assert finished.returncode == 0
        # What the import prints is not the report.
        assert finished.stderr == "my_model is imported\n"
        assert finished.stdout.startswith("file:line ")

    def test_refused(self, checked: Checked) -> None:
        exit_code, output, _ = checked["refused:Outer.LitModel",]
        assert exit_code == 1
        row = member("Trainer", "validate_loop")
        assert re.search(rf"^refused.py:\d+ +Trainer.validate_loop +refused +{re.escape(row.sentence)}$", output, re.M)
        assert output.endswith("Outer.LitModel is refused: fix the 1 refused member (1 called, 1 refused).\n")


class TestTarget:
    def test_every_class_of_a_module(self, checked: Checked) -> None:
        exit_code, output, _ = checked["refused",]
        assert exit_code == 1
        verdicts = re.findall(r"^(\w+) (?:works on Determined|is refused: )", output, re.M)
        assert verdicts == ["LitData", "Watch"]

    def test_absolute_path_from_elsewhere(self, project: Path) -> None:
        finished = run(project / "models", "check", str(project / "fine.py"), COLUMNS="300")
        assert finished.returncode == 0
        assert place_in(project / "fine.py", "training_step") in finished.stdout

    def test_modules_paths_and_objects(self, checked: Checked) -> None:
        for target, file in FILES.items():
            exit_code, output, messages = checked[target,]
            assert (exit_code, messages) == (0, "")
            assert re.search(rf"^{file}:\d+ +\w+\.(training_step|on_train_start) ", output, re.M)
        assert checked["refused:watch",][1].endswith("\n\nWatch works on Determined (1 called).\n")


class TestJson:
    def test_is_one_document(self, project: Path) -> None:
        finished = run(project, "check", "fine.py", "--json")
        assert finished.returncode == 0
        assert finished.stderr == "my_model is imported\n"
        (report,) = json.loads(finished.stdout)["reports"]
        rows = {
            name: member(*name.split("."))
            for name in (
                "LightningModule.training_step",
                "LightningModule.configure_optimizers",
                "Trainer.estimated_stepping_batches",
            )
        }
        assert [finding["member"] for finding in report["findings"]] == list(rows)
        for finding in report["findings"]:
            row = rows[finding["member"]]
            assert (finding["support"], finding["sentence"]) == (row.support.value, row.sentence)
        assert report["findings"][2]["line"] == int(
            place_in(project / "fine.py", "estimated_stepping_batches").rpartition(":")[2]
        )
        assert (report["name"], report["is_supported"]) == ("LitModel", True)
        assert report["counts"].keys() == {support.value for support in Support}

    def test_of_several_classes_that_are_refused(self, checked: Checked) -> None:
        exit_code, output, messages = checked["refused", "--json"]
        assert (exit_code, messages) == (1, "")
        reports: list[dict[str, Any]] = json.loads(output)["reports"]
        assert [(report["name"], report["is_supported"]) for report in reports] == [("LitData", False), ("Watch", True)]


class TestCannot:
    def test_message_says_why(self, project: Path, checked: Checked) -> None:
        results = {target: checked[target,] for target in (*CANNOT, *IMPORT_ERRORS)}
        assert {result[:2] for result in results.values()} == {(2, "")}
        messages = {target: result[2] for target, result in results.items()}
        for target, message in CANNOT.items():
            message = message.format(project=project, torch=torch.__file__)
            assert messages[target] == f"python -m lightning_shim: {message}\n"
        for target, error in IMPORT_ERRORS.items():
            name = target.removesuffix(".py")
            assert messages[target].endswith(f"\npython -m lightning_shim: {name} cannot be imported: {error}\n")
            assert f"{name}.py" in messages[target]

    def test_users_own_traceback(self, project: Path) -> None:
        lines = fails(run(project, "check", "broken:LitModel")).splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        files = [line.split('"')[1] for line in lines if line.startswith('  File "')]
        assert files == [str(project / "broken.py")] * 2
        assert lines[-2:] == [
            "ZeroDivisionError: division by zero",
            "python -m lightning_shim: broken cannot be imported: ZeroDivisionError: division by zero",
        ]

    def test_no_command(self, project: Path) -> None:
        assert "the following arguments are required: COMMAND" in fails(run(project))


def test_help_names_the_exit_codes(project: Path) -> None:
    finished = run(project, "check", "--help")
    assert finished.returncode == 0
    assert "my_model:LitModel" in finished.stdout
    assert re.search(r"exit code: 0 .* 1 .* 2 ", finished.stdout, re.S)
