"""The startup hook, sourced as Determined does, in environments whose torch says its version in different ways.

Nothing in them is real but pip and the requirements of this package: each distribution that it needs is a name and a
version, and there is no network.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import subprocess
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pip
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.repository import REPOSITORY

HOOKS = [REPOSITORY / "examples" / name / "startup-hook.sh" for name in ("mnist", "gan")]
# As in the script that Determined starts a container with.
ENTRYPOINT = 'set -e; set -x; test -f startup-hook.sh && source startup-hook.sh; : "traced"; set +x; echo started'


def requirements() -> list[str]:
    """Reads what a wheel asks for, with what the examples need."""
    declared = configparser.ConfigParser()
    declared.read(REPOSITORY / "setup.cfg")
    lines = declared["options"]["install_requires"].splitlines()
    extra = declared["options.extras_require"]["examples"].splitlines()
    lines += [f'{line}; extra == "examples"' for line in extra if line and not line.startswith("#")]
    return [line for line in lines if line and not line.startswith("#")]


REQUIREMENTS = requirements()


@dataclass
class Container:
    """An image's environment, and the folder of an experiment."""

    folder: Path
    packages: Path
    python: Path

    def add(self, name: str, version: str, module: str = "") -> None:
        """Adds a distribution that pip takes for installed."""
        information = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (information / "RECORD").write_text("")
        if module:
            (self.packages / f"{name}.py").write_text(module)

    def bring_wheel(self, version: str) -> None:
        """Puts a wheel with this package's requirements into the folder."""
        required = "".join(f"Requires-Dist: {each}\n" for each in REQUIREMENTS)
        information = f"lightning_shim-{version}.dist-info"
        with zipfile.ZipFile(self.folder / f"lightning_shim-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("lightning_shim/__init__.py", f"version = {version!r}\n")
            wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(
                f"{information}/METADATA",
                "Metadata-Version: 2.1\nName: lightning_shim\n"
                f"Version: {version}\nProvides-Extra: examples\n{required}",
            )
            wheel.writestr(f"{information}/RECORD", "")

    def start(self, entrypoint: str = ENTRYPOINT) -> Start:
        """Starts the container."""
        finished = subprocess.run(
            ["bash", "-c", entrypoint],
            cwd=self.folder,
            env={"PATH": f"{self.python.parent}:/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        lines = finished.stdout.splitlines()
        return Start(finished.returncode, [line for line in lines if not line.startswith("+")], lines)

    def installed(self) -> str:
        """The version of the package that a script in the container imports."""
        command = [str(self.python), "-c", "import lightning_shim; print(lightning_shim.version)"]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


@dataclass
class Start:
    """What a start gave: the lines of the log without the traces, and with them."""

    returncode: int
    lines: list[str]
    log: list[str]


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.parent.name)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Container:
    """A container whose image has everything but torch and this package."""
    folder, environment = tmp_path / "experiment", tmp_path / "environment"
    folder.mkdir()
    (folder / "startup-hook.sh").write_bytes(request.param.read_bytes())
    venv.create(environment, symlinks=True)
    [packages] = (environment / "lib").glob("python*/site-packages")
    # Making one with its own pip takes seconds.
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    made = Container(folder, packages, environment / "bin" / "python3")
    for name in {canonicalize_name(Requirement(each).name) for each in REQUIREMENTS} - {"torch"}:
        made.add(name, importlib.metadata.version(name))
    return made


@pytest.mark.parametrize(
    ("version", "distribution"),
    [
        ("2.13.0+cu130", "2.13.0"),
        ("2.3.0a0+40ec155e58.nv24.03", "2.3.0a0+40ec155e58.nv24.3"),
        ("2.13.0", "2.13.0"),
    ],
    ids=["local version in __version__ only", "in both", "in neither"],
)
def test_installs_the_wheel_beside_the_images_torch(container: Container, version: str, distribution: str) -> None:
    container.add("torch", distribution, f"__version__ = {version!r}\n")
    container.bring_wheel("0.1.0")
    start = container.start()
    assert start.returncode == 0, start.log
    assert start.lines == [
        "startup-hook.sh: installed lightning_shim-0.1.0-py3-none-any.whl with what it needs, beside the image's own "
        f"torch {distribution}.",
        "started",
    ]
    assert "+ : traced" in start.log
    assert container.installed() == "0.1.0"


def test_takes_the_newest_of_several_wheels(container: Container) -> None:
    container.add("torch", "2.13.0")
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        container.bring_wheel(version)
    assert container.start().returncode == 0
    assert container.installed() == "0.10.0"


def test_starts_again_where_everything_is_there(container: Container) -> None:
    container.add("torch", "2.13.0")
    container.bring_wheel("0.1.0")
    assert container.start().lines == container.start().lines


def test_leaves_tracing_off_where_it_was_off(container: Container) -> None:
    container.add("torch", "2.13.0")
    container.bring_wheel("0.1.0")
    start = container.start(ENTRYPOINT.replace("set -x; ", ""))
    assert start.returncode == 0
    assert start.lines == start.log


def test_says_what_to_do_where_pip_refuses(container: Container) -> None:
    container.add("torch", "2.2.0")
    container.bring_wheel("0.1.0")
    start = container.start()
    assert start.returncode == 1
    # pip's own error, then what to do.
    assert any("ResolutionImpossible" in line for line in start.lines)
    assert start.lines[-1].startswith(
        "startup-hook.sh: lightning_shim-0.1.0-py3-none-any.whl cannot be installed beside torch 2.2.0, "
    )
    assert start.lines[-1].count("(environment: {image: ...})") == 1


def test_says_that_the_wheel_is_missing(container: Container) -> None:
    container.add("torch", "2.13.0")
    start = container.start()
    assert start.returncode == 1
    [line] = start.lines
    assert line.startswith(f"startup-hook.sh: there is no lightning_shim-*.whl in {container.folder};")


def test_says_that_torch_is_missing(container: Container) -> None:
    container.bring_wheel("0.1.0")
    start = container.start()
    assert start.returncode == 1
    [line] = start.lines
    assert line.startswith("startup-hook.sh: this image has no torch;")
