"""Warnings and errors: where they point, how often they come, and how they are turned into errors or silenced."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import linecache
import os
import runpy
import subprocess
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_shim
from lightning_shim import (
    CheckpointError,
    ConfigurationError,
    DifferenceWarning,
    HyperparameterWarning,
    IgnoredMemberWarning,
    LightningShimError,
    LightningShimWarning,
    MetricError,
    PatchError,
    PatchWarning,
    RefusedMemberError,
    RefusedMemberWarning,
    StrictModeError,
)
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.diagnostics.warn import warn_at_caller, warn_at_definition, warn_at_place
from tests.support.user_files import load

ROOT = Path(lightning_shim.__file__).parents[1]
RANK_VARIABLES = ("RANK", "HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")


@pytest.fixture(autouse=True)
def rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def leaves_nothing_strict() -> Iterator[None]:
    yield
    lightning_shim.unpatch()


def warn(message: str = "something differs") -> None:
    warn_at_caller(message, DifferenceWarning)


def this_line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def located(record: pytest.WarningsRecorder | list[warnings.WarningMessage]) -> list[tuple[str, int]]:
    return [(warning.filename, warning.lineno) for warning in record]


# The classes.


@pytest.mark.parametrize(
    "category",
    [IgnoredMemberWarning, RefusedMemberWarning, DifferenceWarning, HyperparameterWarning, PatchWarning],
)
def test_category_derives_from_the_base(category: type[Warning]) -> None:
    assert issubclass(category, LightningShimWarning)
    assert issubclass(LightningShimWarning, UserWarning)


@pytest.mark.parametrize(
    ("error", "as_well"),
    [
        (StrictModeError, Exception),
        (ConfigurationError, Exception),
        (RefusedMemberError, AttributeError),
        (MetricError, ValueError),
        (CheckpointError, Exception),
        (PatchError, Exception),
    ],
)
def test_error_derives_from_the_base(error: type[Exception], as_well: type[Exception]) -> None:
    assert issubclass(error, LightningShimError)
    assert issubclass(error, as_well)


def test_refused_member_is_absent_for_hasattr() -> None:
    class Refusing:
        @property
        def member(self) -> None:
            raise RefusedMemberError("refused")

    assert not hasattr(Refusing(), "member")
    assert getattr(Refusing(), "member", "default") == "default"


# The line of the user's that is being executed.


def function_of(package: str, source: str, name: str) -> Callable[..., Any]:
    """A function that belongs to a module of a package, as far as its frames can tell."""
    namespace = {"__name__": f"{package}.some.module", "warn_at_caller": warn_at_caller, "Warning": DifferenceWarning}
    exec(compile(source, f"<{package}>", "exec"), namespace)
    function = namespace[name]
    assert callable(function)
    return function


def framework_warn(package: str = "lightning_shim") -> Callable[..., None]:
    return function_of(package, "def warn(*_):\n    warn_at_caller('something differs', Warning)\n", "warn")


def test_points_at_the_call() -> None:
    with pytest.warns(DifferenceWarning, match="^something differs$") as record:
        warn_at_caller("something differs", DifferenceWarning)
    assert located(record) == [(__file__, this_line() - 1)]
    assert record[0].category is DifferenceWarning
    assert caller_location() == f"{__file__}:{this_line()}"


@pytest.mark.parametrize(
    "package",
    [
        "lightning_shim",
        "pytorch_lightning",
        "lightning",
        "lightning_fabric",
        "torch",
        "torchmetrics",
        "determined",
        "wrapt",
    ],
)
def test_passes_over_frames_of_the_frameworks(package: str) -> None:
    through = function_of(package, "def through(function):\n    function()\n", "through")
    with pytest.warns(DifferenceWarning) as record:
        through(functools.partial(through, framework_warn(package)))
    assert located(record) == [(__file__, this_line() - 1)]


@pytest.mark.parametrize("package", ["torch_extras", "lightning_models", "mine.torch", "determinedly", "__main__"])
def test_stops_at_packages_that_only_look_like_one(package: str) -> None:
    with pytest.warns(DifferenceWarning) as record:
        framework_warn(package)()
    assert located(record) == [(f"<{package}>", 2)]


def test_passes_through_torch() -> None:
    linear = torch.nn.Linear(2, 2)
    linear.register_forward_hook(framework_warn())
    with pytest.warns(DifferenceWarning) as record:
        torch.nn.Sequential(linear)(torch.ones(2))
    assert located(record) == [(__file__, this_line() - 1)]


def test_stops_at_the_users_function_that_torch_calls() -> None:
    class Layer(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            framework_warn()()
            return batch

    with pytest.warns(DifferenceWarning) as record:
        torch.nn.Sequential(Layer())(torch.ones(2))
    assert located(record) == [(__file__, inspect.getsourcelines(Layer.forward)[1] + 1)]


def test_passes_through_context_managers() -> None:
    manager = contextlib.contextmanager(
        function_of("torch", "def hold():\n    yield warn_at_caller('', Warning)", "hold")
    )
    with pytest.warns(DifferenceWarning) as record, manager():
        pass
    assert located(record) == [(__file__, this_line() - 2)]


def test_code_without_a_module_is_the_users() -> None:
    with pytest.warns(DifferenceWarning) as record:
        exec(compile("\nwarn()", "<typed in>", "exec"), {"warn": framework_warn()})
    assert located(record) == [("<typed in>", 2)]


# With wrapt's C extension and without, on a real module.

SCRIPT = '''
import json
import sys
import warnings

import torch
import wrapt

import lightning_shim
from lightning_shim.patching.attachment import Attached
from lightning_shim.diagnostics.errors import DifferenceWarning

framework = {"__name__": "lightning_shim.stand_in", "Attached": Attached, "DifferenceWarning": DifferenceWarning}
exec(
    """
from lightning_shim.diagnostics.warn import warn_at_caller

class Collector:
    def log(self, *args, **kwargs):
        warn_at_caller("log", DifferenceWarning)

    def log_dict(self, *args, **kwargs):
        warn_at_caller("log_dict", DifferenceWarning)

class Metrics:
    collector = Collector()

class Facade:
    metrics = Metrics()

class StandIn(Attached):
    _lightning_shim_facade = Facade
    progress_bar_callback = None

    def print(self, *args, **kwargs):
        warn_at_caller("print", DifferenceWarning)

    @property
    def logger(self):
        warn_at_caller("logger", DifferenceWarning)

    @property
    def loggers(self):
        warn_at_caller("loggers", DifferenceWarning)

    @property
    def current_epoch(self):
        warn_at_caller("current_epoch", DifferenceWarning)

    def __getattr__(self, name):
        warn_at_caller("absent", DifferenceWarning)
""",
    framework,
)


def decorated(function):
    return function


def attach(lightning):
    class Module(lightning.LightningModule):
        def log_it(self):
            self.log("loss", 1.0)  # log

        @decorated
        @torch.no_grad()
        def forward(self, batch):
            self.log_dict({"loss": 1.0})  # log_dict
            return batch

        def log(self, *args, **kwargs):
            super().log(*args, **kwargs)  # log

        def read(self):
            self.logger  # logger
            self.loggers  # loggers
            self.current_epoch  # current_epoch
            self.trainer.whatever  # absent

    module = Module()
    module.trainer = framework["StandIn"]()
    return module


def use(module):
    module.log("loss", 1.0)  # log
    module.log_it()
    torch.nn.Sequential(module)(torch.ones(2))
    module.read()
    module.print("text")  # print
    type(module).print(module, "text")  # print
    list(map(module.log_dict, [{}]))  # log_dict


import pytorch_lightning
import lightning.pytorch

with lightning_shim.patched(), warnings.catch_warnings(record=True) as record:
    warnings.simplefilter("always")
    for namespace in (pytorch_lightning, lightning.pytorch):
        use(attach(namespace))
is_pure_python = type(wrapt.FunctionWrapper.__call__) is type(use)
located = [[str(warning.message), warning.filename, warning.lineno] for warning in record]
print(json.dumps({"is_pure_python": is_pure_python, "located": located}))
'''
EXPECTED_MESSAGES = [
    "log",
    "log",
    "log_dict",
    "logger",
    "loggers",
    "current_epoch",
    "absent",
    "print",
    "print",
    "log_dict",
]


def assert_points_at_the_users_lines(script: Path, output: str, is_pure_python: bool) -> None:
    result = json.loads(output)
    assert result["is_pure_python"] is is_pure_python
    assert [message for message, _, _ in result["located"]] == EXPECTED_MESSAGES * 2
    for message, filename, line in result["located"]:
        assert filename == str(script)
        assert linecache.getline(filename, line).endswith(f"  # {message}\n")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "users_script.py"
    path.write_text(SCRIPT)
    return path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)


def test_points_at_the_users_lines_with_the_c_extension(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    assert_points_at_the_users_lines(script, capsys.readouterr().out, is_pure_python=False)


def test_points_at_the_users_lines_without_the_c_extension(script: Path) -> None:
    output = run(str(script), WRAPT_DISABLE_EXTENSIONS="1").stdout
    assert_points_at_the_users_lines(script, output, is_pure_python=True)


# The definition.

DEFINITIONS = {
    "function": "def hook(self): ...  # here",
    "indented": """
        if True:
            def hook(self): ...  # here
    """,
    "decorated": """
        @plain
        # A comment.
        @with_arguments(
            "def hook(self): ...",
            key=lambda value: value,
        )

        @plain
        def hook(  # here
            self,
        ):
            def inner(): ...
    """,
    "coroutine": """
        @plain
        async def hook(self): ...  # here
    """,
    "class method": """
        class Module:
            @classmethod
            @plain
            def hook(cls): ...  # here
        hook = Module.hook
    """,
    "entry of a class method": """
        class Module:
            @classmethod
            def hook(cls): ...  # here
        hook = vars(Module)["hook"]
    """,
    "static method": """
        class Module:
            @staticmethod
            def hook(): ...  # here
        hook = Module.hook
    """,
    "bound method": """
        class Module:
            def other(self): ...
            @plain
            def hook(self): ...  # here
        hook = Module().hook
    """,
    "inherited method": """
        class Base:
            def hook(self): ...  # here
        class Module(Base):
            def other(self): ...
        hook = Module().hook
    """,
    "functools.wraps": """
        def wrapping(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function(*args)
            return wrapper
        @wrapping
        @wrapping
        def hook(self): ...  # here
    """,
    "torch.no_grad": """
        @torch.no_grad()
        def hook(self): ...  # here
    """,
    "wrapt": """
        @wrapt.decorator
        def passing(wrapped, instance, args, kwargs):
            return wrapped(*args, **kwargs)
        class Module:
            @passing
            def hook(self): ...  # here
        hook = Module().hook
    """,
    "functools.lru_cache": """
        @functools.lru_cache
        def hook(self): ...  # here
    """,
    "lambda on a line of its own": """
        hook = (
            lambda self: None  # here
        )
    """,
}
LAMBDAS = {
    "assigned lambda": """
        hook = lambda self: None  # here
        def other(self): ...
    """,
    "lambda in a decorator": """
        @with_arguments(
            lambda value: value,
        )
        def hook(self): ...  # here
    """,
}
PREAMBLE = """\
import functools
import torch
import wrapt
def plain(function): return function
def with_arguments(*args, **kwargs): return plain
"""


def assert_points_at_the_definition(path: Path, source: str) -> None:
    hook = load(path, PREAMBLE + textwrap.dedent(source)).hook
    (line,) = (number for number, text in enumerate(path.read_text().splitlines(), 1) if text.endswith("# here"))
    with pytest.warns(IgnoredMemberWarning, match="^hook is ignored$") as record:
        warn_at_definition(hook, "hook is ignored", IgnoredMemberWarning)
    assert located(record) == [(str(path), line)]
    assert definition_location(hook) == f"{path}:{line}"


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_points_at_the_definition(kind: str, tmp_path: Path) -> None:
    assert_points_at_the_definition(tmp_path / "users_module.py", DEFINITIONS[kind])


@pytest.mark.parametrize("kind", LAMBDAS)
def test_points_at_the_definition_with_a_lambda(kind: str, tmp_path: Path) -> None:
    assert_points_at_the_definition(tmp_path / "users_module.py", LAMBDAS[kind])


def test_definition_without_source_keeps_its_first_line() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("\n\ndef hook(): ...", "<typed in>", "exec"), namespace)
    with pytest.warns(IgnoredMemberWarning) as record:
        warn_at_definition(namespace["hook"], "ignored", IgnoredMemberWarning)
    assert located(record) == [("<typed in>", 3)]


@pytest.mark.parametrize("definition", [len, functools.partial(len), torch.relu, torch.nn.Linear(1, 1)])
def test_definition_without_code_points_at_the_caller(definition: Callable[..., Any]) -> None:
    with pytest.warns(IgnoredMemberWarning) as record:
        warn_at_definition(definition, "ignored", IgnoredMemberWarning)
    assert located(record) == [(__file__, this_line() - 1)]


def test_location_of_a_class() -> None:
    class Defined: ...

    assert definition_location(Defined) == f"{__file__}:{inspect.getsourcelines(Defined)[1]}"
    assert definition_location(int) == "int"


# A line that is not being executed.


def test_points_at_a_place() -> None:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("default")
        for module in (__name__, __name__, "not.imported"):
            warn_at_place("users_model.py", 7, module, "refused", RefusedMemberWarning)
        # The same warning from the code itself is the same for Python.
        exec(
            compile("\n" * 6 + "warn('refused', category)", "users_model.py", "exec"),
            globals()
            | {
                "__warningregistry__": globals()["__warningregistry__"],
                "warn": warn_at_caller,
                "category": RefusedMemberWarning,
            },
        )
    assert located(record) == [("users_model.py", 7)] * 2


# Python's own filters.


def test_shown_once_for_each_line_and_message() -> None:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("default")
        for _ in range(3):
            for message in ("first", "second"):
                warn_at_caller(message, DifferenceWarning)
            warn_at_caller("first", DifferenceWarning)
    last = this_line() - 1
    assert located(record) == [(__file__, last - 1), (__file__, last - 1), (__file__, last)]
    assert [str(warning.message) for warning in record] == ["first", "second", "first"]


def test_definition_is_shown_once() -> None:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_at_definition(test_definition_is_shown_once, "ignored", IgnoredMemberWarning)
            warn_at_definition(test_definition_is_shown_once, "ignored", IgnoredMemberWarning)
    assert located(record) == [(__file__, test_definition_is_shown_once.__code__.co_firstlineno)]


@pytest.mark.parametrize("category", [DifferenceWarning, LightningShimWarning, UserWarning, Warning])
def test_filter_silences(category: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", category)
        warn()
    assert record == []


@pytest.mark.parametrize(
    "by",
    [{"message": "something differs"}, {"module": __name__.replace(".", r"\.") + "$"}, {"category": PatchWarning}],
    ids=lambda by: next(iter(by)),
)
def test_filter_selects(by: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", **by)
        warn()
        warn("other")
        warn_at_definition(test_filter_selects, "other", IgnoredMemberWarning)
        warn_at_place(__file__, 1, __name__, "other", IgnoredMemberWarning)
        warn_at_place(__file__, 1, "another.module", "other", IgnoredMemberWarning)
    silenced = {"message": 1, "module": 4, "category": 0}[next(iter(by))]
    assert len(record) == 5 - silenced


@pytest.mark.parametrize("category", [DifferenceWarning, LightningShimWarning])
def test_filter_makes_errors(category: type[Warning]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=category)
        with pytest.raises(DifferenceWarning, match="something differs"):
            warn()
        warnings.warn("not ours", UserWarning, stacklevel=1)


WARNING_SCRIPT = """\
from lightning_shim.diagnostics.errors import DifferenceWarning
from lightning_shim.diagnostics.warn import warn_at_caller
for _ in range(3):
    warn_at_caller("something differs", DifferenceWarning)
    warn_at_caller("something differs", DifferenceWarning)
print("done")
"""


@pytest.fixture
def warning_script(tmp_path: Path) -> Path:
    path = tmp_path / "users_script.py"
    path.write_text(WARNING_SCRIPT)
    return path


def test_python_shows_the_users_line_once_by_default(warning_script: Path) -> None:
    source = '    warn_at_caller("something differs", DifferenceWarning)'
    assert run(str(warning_script)).stderr.splitlines() == [
        line
        for number in (4, 5)
        for line in (f"{warning_script}:{number}: DifferenceWarning: something differs", source[2:])
    ]


@pytest.mark.parametrize(
    "name", ["lightning_shim.LightningShimWarning", "lightning_shim.diagnostics.errors.DifferenceWarning"]
)
def test_python_makes_errors_by_option(warning_script: Path, name: str) -> None:
    # Python reads the option before it knows site-packages: the path has to say where they are.
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    with pytest.raises(subprocess.CalledProcessError) as failure:
        run(f"-Werror::{name}", str(warning_script), PYTHONPATH=path)
    assert (
        failure.value.stderr.splitlines()[-1]
        == "lightning_shim.diagnostics.errors.DifferenceWarning: something differs"
    )
    assert failure.value.stdout == ""


def test_python_silences_by_environment(warning_script: Path) -> None:
    finished = run(str(warning_script), PYTHONWARNINGS="ignore:something differs:UserWarning")
    assert (finished.stdout, finished.stderr) == ("done\n", "")


# One process of several speaks.


@pytest.mark.parametrize("name", RANK_VARIABLES)
def test_other_ranks_are_silent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        warn()
        warn_at_definition(warn, "ignored", IgnoredMemberWarning)
        warn_at_place(__file__, 1, __name__, "refused", RefusedMemberWarning)
    assert record == []


@pytest.mark.parametrize("name", RANK_VARIABLES)
def test_rank_zero_speaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.warns(DifferenceWarning):
        warn()


# Strict mode.


def test_strict_raises_with_the_users_line() -> None:
    with lightning_shim.patched(strict=True):
        with pytest.raises(StrictModeError) as failure:
            warn_at_caller("something differs", DifferenceWarning)
        assert str(failure.value) == f"{__file__}:{this_line() - 1}: something differs"
        with pytest.raises(StrictModeError) as failure:
            warn_at_definition(warn, "ignored", IgnoredMemberWarning)
        assert str(failure.value) == f"{__file__}:{warn.__code__.co_firstlineno}: ignored"
        with pytest.raises(StrictModeError, match=r"^users_model\.py:7: refused$"):
            warn_at_place("users_model.py", 7, __name__, "refused", RefusedMemberWarning)


def test_strict_raises_each_time_and_whatever_the_filters_say() -> None:
    with lightning_shim.patched(strict=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            with pytest.raises(StrictModeError):
                warn()


def test_unpatch_ends_strict_mode() -> None:
    lightning_shim.patch(strict=True)
    lightning_shim.unpatch()
    with pytest.warns(DifferenceWarning):
        warn()


def test_later_patch_chooses_anew() -> None:
    lightning_shim.patch()
    with pytest.warns(DifferenceWarning):
        warn()
    lightning_shim.patch(strict=True)
    with pytest.raises(StrictModeError):
        warn()
    lightning_shim.patch(strict=False)
    with pytest.warns(DifferenceWarning):
        warn()
    lightning_shim.unpatch()


def test_not_patched_is_not_strict() -> None:
    with pytest.warns(DifferenceWarning):
        warn()
