"""``init``: the files that a cluster needs beside a script."""

from __future__ import annotations

import argparse
import ast
import json
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lightning_shim.cli.exit_code import FINE, UNUSABLE
from lightning_shim.cli.experiment import Experiment, Length, configured_values
from lightning_shim.cli.searcher_metric import FILL_IN, choose_metric
from lightning_shim.cli.target import TargetError
from lightning_shim.user_code.logged_names import LoggedNames, logged_in_validation
from lightning_shim.user_code.project import NotLiteralError, Outside, Project, SourceError, methods_of, shown
from lightning_shim.user_code.training_script import (
    LIGHTNING_CLI,
    OWN_FIT,
    TRAINER,
    TrainingScript,
    read_training_script,
)

HOOK: Final = "startup-hook.sh"
DETIGNORE: Final = ".detignore"
REQUIREMENTS: Final = "requirements.txt"

_MODEL_DEF: Final = "model_def.py"
_MODEL_DEF_EPOCHS: Final = 10

_CLI_CONFIG: Final = "config.yaml"
"""Where a script of LightningCLI usually has its arguments."""

_LIGHTNINGS_EPOCHS: Final = 1000
"""Trainer's own, where it is given neither epochs nor steps; ``_parse_loop_limits`` in Lightning."""

_BROUGHT_ALONG: Final = frozenset({"numpy", "ruamel", "tabulate", "tensorboard", "tqdm"})
"""Packages that come with this one."""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "init",
        help="write what a cluster needs beside a script",
        description="Writes an experiment's YAML file, a startup hook and a .detignore beside a script. The metric, "
        "the hyperparameters and the slots are read from the script's source; nothing of it is run, and no file "
        "is overwritten.",
        epilog=f"exit code: {FINE} if the files are written, {UNUSABLE} if nothing is",
    )
    parser.add_argument(
        "script",
        help="a script for Lightning's Trainer, of LightningCLI or with lightning_shim.fit; or "
        f"path/to/model.py:LitModel, for which {_MODEL_DEF} is written too",
    )
    parser.add_argument("--search", action="store_true", help="search for better values of the numeric hyperparameters")
    parser.set_defaults(function=_init)


def _init(options: argparse.Namespace) -> int:
    name, _, class_name = options.script.partition(":")
    path = Path(name)
    if not path.is_file():
        raise TargetError(f"there is no file {name}. Name the script that trains: lightning_shim init train.py")
    if path.suffix != ".py":
        raise TargetError(f"{name} is not a Python file. Name the script that trains: lightning_shim init train.py")
    if class_name and not all(part.isidentifier() for part in class_name.split(".")):
        raise TargetError(f"{class_name} is not the name of a class.")
    try:
        plan = _Plan(path, class_name, options.search)
    except SourceError as error:
        raise TargetError(str(error)) from error
    _write(path.parent, plan.files)
    print("\n".join(plan.report()))
    return FINE


class _Plan:
    """What is to be written, the texts by file name, and what is to be said."""

    def __init__(self, path: Path, class_name: str, is_search: bool) -> None:
        self._path: Final = path
        self._project: Final = Project(path)
        config, config_place = _cli_config(path.parent / _CLI_CONFIG)
        model = config.get("model")
        class_path = model.get("class_path", "") if isinstance(model, Mapping) else ""
        script = self._script = read_training_script(self._project, class_name, class_path)
        if script.way != LIGHTNING_CLI:
            config = {}
        self._logged: Final = logged_in_validation(self._project.ancestry(script.module))
        settings = _Settings(script, config, config_place)
        self.files: Final[dict[str, str]] = {}
        run_file = path.name
        if not script.way:
            run_file = _MODEL_DEF
            self.files[_MODEL_DEF] = _model_def(script)
        parameters = list(script.parameters(configured_values(config), config_place))
        self._experiment: Final = Experiment(
            name=script.module.name,
            script=run_file,
            entrypoint=_entrypoint(script, run_file, bool(config)),
            slots=settings.slots,
            metric=choose_metric(self._logged, script.monitors),
            length=settings.length,
            parameters=parameters,
            is_search=is_search,
        )
        self._yaml: Final = f"{Path(run_file).stem}_{'search' if is_search else 'experiment'}.yaml"
        self.files[self._yaml] = self._experiment.text()
        self.files[HOOK] = template(HOOK)
        self.files[DETIGNORE] = template("detignore")
        if is_search:
            self._verify_search()
        if script.way in ("", OWN_FIT):
            self._experiment.to_fill_in += [
                f"hyperparameters.{parameter.name}: {parameter.place} needs it, and has no default"
                for parameter in parameters
                if not parameter.has_value and not parameter.text
            ]

    def _verify_search(self) -> None:
        module = self._script.module
        if not self._logged.has_validation:
            raise SourceError(
                f"{module.place}: {module.name} has no validation_step, and a search compares trials by a metric of "
                'validation. Define one, with self.log("val_loss", loss) in it.'
            )
        if not self._experiment.searched:
            names = ", ".join(each.name for each in self._script.built) or module.name
            raise SourceError(
                f"{module.place}: there is nothing to search for: no parameter of {names} has a number that the source "
                "says and that can vary. Call init without --search, and write the ranges into the YAML file by hand."
            )

    def report(self) -> list[str]:
        """Says what was written, what is missing, and what to do next."""
        folder = self._path.parent
        experiment, metric = self._experiment, self._experiment.metric
        lines = []
        if metric.name != FILL_IN:
            lines.append(f"searcher.metric: {metric.name} ({metric.place})")
        elif self._logged.has_validation:
            lines += [_why_unknown(self._script, self._logged)]
        else:
            module = self._script.module
            lines.append(f"{module.place}: {module.name} has no validation_step: there is no metric for the searcher.")
        if experiment.searched:
            lines.append(f"searched: {', '.join(experiment.searched)}")
        lines += [f"fill in, in {folder / self._yaml}: {each}" for each in experiment.to_fill_in]
        packages = [name for name in self._project.packages() if name not in _BROUGHT_ALONG]
        if packages and not (folder / REQUIREMENTS).exists():
            lines.append(
                f"imported: {', '.join(packages)}. The image needs them, or {REQUIREMENTS} beside the script "
                "with their packages."
            )
        quoted = shlex.quote(str(folder))
        lines.append("next:")
        if not list(folder.glob("lightning_shim-*.whl")):
            lines.append(f"  pip wheel --no-deps --wheel-dir {quoted} {shlex.quote(_own_source())}")
        lines.append(f"  det experiment create {shlex.quote(str(folder / self._yaml))} {quoted}")
        return lines


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the script has configured Lightning's Trainer, or ``fit``, with."""

    script: TrainingScript
    config: Mapping[str, Any]
    config_place: str

    def _given(self, name: str) -> tuple[bool, Any, str]:
        """Returns whether a setting is given, its value if the source says it, and where that is."""
        call = self.script.call
        section = self.config.get("trainer")
        if isinstance(section, Mapping) and name in section:
            return True, section[name], self.config_place
        if call is None:
            return False, None, ""
        if self.script.way == LIGHTNING_CLI:
            defaults = call.literal("trainer_defaults")
            value = defaults.get(name) if isinstance(defaults, dict) else None
            return value is not None, value, call.place
        is_open = any(keyword.arg is None for keyword in call.node.keywords)
        return is_open or call.argument(name) is not None, call.literal(name), call.place

    @property
    def length(self) -> Length:
        if not self.script.way:
            return Length("epochs", _MODEL_DEF_EPOCHS, _MODEL_DEF)
        if self.script.way == OWN_FIT:
            return self._length_of_fit()
        has_epochs, epochs, place = self._given("max_epochs")
        has_steps, steps, place_of_steps = self._given("max_steps")
        if has_steps and _is_count(steps) and not _is_count(epochs):
            batches = self._given("accumulate_grad_batches")[1]
            return Length("batches", steps * (batches if _is_count(batches) else 1), place_of_steps)
        if not has_epochs and not has_steps and self.script.way == TRAINER:
            return Length("epochs", _LIGHTNINGS_EPOCHS, place)
        return Length("epochs", epochs if _is_count(epochs) else None, place)

    def _length_of_fit(self) -> Length:
        call = self.script.call
        node = call.argument("max_length") if call is not None else None
        if call is not None and isinstance(node, ast.Call):
            unit = self.script.project.resolve(call.module, node.func)
            units = {"determined.pytorch.Epoch": "epochs", "determined.pytorch.Batch": "batches"}
            if isinstance(unit, Outside) and unit.name in units:
                try:
                    number = call.module.literal(node.args[0])
                except (NotLiteralError, IndexError):
                    number = None
                return Length(units[unit.name], number if _is_count(number) else None, call.module.place(node))
        return Length("epochs", None, "")

    @property
    def slots(self) -> int:
        devices, nodes = self._given("devices")[1], self._given("num_nodes")[1]
        count = len(devices) if isinstance(devices, list) else devices
        return (count if _is_count(count) else 1) * (nodes if _is_count(nodes) else 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _cli_config(path: Path) -> tuple[dict[str, Any], str]:
    """Reads the configuration of a script of LightningCLI, if there is one, with the name to call it by."""
    if not path.is_file():
        return {}, ""
    try:
        config = YAML(typ="safe", pure=True).load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"{shown(path)} cannot be read: {error}") from error
    return (config if isinstance(config, dict) else {}), shown(path)


def _entrypoint(script: TrainingScript, file: str, has_config: bool) -> str:
    command = ["python3", file]
    if script.way in (TRAINER, LIGHTNING_CLI) and not script.patches_trainer:
        command = ["python3", "-m", "lightning_shim", "run", file]
    if script.way == LIGHTNING_CLI and script.call is not None:
        if script.call.literal("run") is not False:
            command.append("fit")
        if has_config:
            command += ["--config", _CLI_CONFIG]
    return shlex.join(command)


def _model_def(script: TrainingScript) -> str:
    """Returns a script that trains a module whose own file trains nothing."""
    module, datamodule = script.module, script.datamodule
    if datamodule is None and "train_dataloader" not in methods_of(script.project.ancestry(module)):
        raise SourceError(
            f"{module.place}: nothing says what to train {module.name} on: its file calls neither Trainer.fit nor "
            "lightning_shim.fit, has no LightningDataModule, and the module has no train_dataloader. Name the script "
            "that trains it: lightning_shim init train.py"
        )
    names = [module.name, *([] if datamodule is None else [datamodule.name])]
    return string.Template(template("model_def")).substitute(
        module=module.name,
        file=script.project.script.path.stem,
        names=", ".join(names),
        data="" if datamodule is None else f", datamodule={datamodule.name}",
        epochs=_MODEL_DEF_EPOCHS,
    )


def _why_unknown(script: TrainingScript, logged: LoggedNames) -> str:
    if logged.unread:
        return (
            f"{logged.unread[0]}: the name of what is logged is known only when the module runs, so that "
            "searcher.metric is to be filled in."
        )
    module = script.module
    return (
        f'{module.place}: {module.name} logs nothing in validation. Add self.log("val_loss", loss) to validation_step.'
    )


def template(name: str) -> str:
    """Returns one of the files that this package ships."""
    return (resources.files("lightning_shim.cli") / "templates" / name).read_text()


def _own_source() -> str:
    """Returns where pip finds this package: what it was installed from."""
    distribution = metadata.distribution("lightning_shim")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    return str(origin.get("url", f"lightning_shim=={distribution.version}"))


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Writes all files, or none."""
    present = [
        str(folder / name) for name, text in files.items() if (folder / name).exists() and not _is(folder / name, text)
    ]
    if present:
        raise TargetError(
            f"{', '.join(present)} {'exists' if len(present) == 1 else 'exist'}, and nothing is overwritten: no file "
            "was written. Move away or remove what is there, and call init again."
        )
    for name, text in files.items():
        path = folder / name
        if path.exists():
            print(f"{path} is there already")
            continue
        try:
            path.write_text(text)
        except OSError as error:
            raise TargetError(f"{path} cannot be written: {error.strerror}.") from error
        print(f"wrote {path}")


def _is(path: Path, text: str) -> bool:
    """Tells whether a file holds a text already, as the startup hook does for a second experiment."""
    return path.suffix != ".yaml" and path.is_file() and path.read_bytes() == text.encode()
