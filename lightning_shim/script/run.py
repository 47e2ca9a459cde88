"""Runs a user's script like ``python script.py``, with its ``Trainer.fit`` as a trial.

It relies on ``runpy._run_module_as_main``, which is what ``python -m`` calls.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import os
import runpy
import sys
import types
import zipfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NoReturn

from lightning_shim.diagnostics.lines import say
from lightning_shim.patching.lightning_module import patch
from lightning_shim.session.random_state import seed_generators
from lightning_shim.upstream.determined.context import lacks_launcher, trial_info


def run_script(script: str, arguments: Sequence[str], is_module: bool = False) -> None:
    """Runs a script, or a module as ``python -m`` does, with its ``Trainer.fit`` as a trial.

    If the trial has several slots, and nothing has started a process for each of them, Determined's launcher takes the
    place of this process. SystemExit is raised if the script exits, or ends with an error, whose traceback has been
    printed.
    """
    if lacks_launcher():
        _launch(script, arguments, is_module)
    patch(trainer=True)
    info = trial_info()
    if info is not None:
        # Determined seeds a trial before its module is built, which a script does before fit. A script's own seed still
        # comes later, and counts.
        seed_generators(info.trial.trial_seed)
    sys.argv = [script, *arguments]
    # It stays for what looks for it later: pickle, the processes of data workers, and functions at exit.
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    vars(main).update(__annotations__={}, __builtins__=builtins)
    try:
        if is_module:
            runpy._run_module_as_main(script)  # type: ignore[attr-defined]  # private
        elif os.path.isfile(script) and not zipfile.is_zipfile(script):
            # As Python does, which leaves "./" and "../" in __file__.
            _run_file(os.path.join(os.getcwd(), script), main)
        else:
            sys.path[0] = os.path.abspath(script)
            runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]  # private
    except Exception as error:
        # The traceback is to start in the script, as if Python had run it.
        own = error.with_traceback(_own_part(error.__traceback__))
        sys.excepthook(type(own), own, own.__traceback__)
        sys.exit(1)


def _run_file(script: str, main: types.ModuleType) -> None:
    """Runs a file in the module ``__main__``, as Python does; ``runpy.run_path`` takes the module away afterwards."""
    # Python puts the script's folder first, unless it runs with -P.
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    loader = importlib.machinery.SourceFileLoader("__main__", script)
    vars(main).update(__file__=script, __loader__=loader, __cached__=None)
    exec(loader.source_to_code(loader.get_data(script), script), vars(main))


@contextlib.contextmanager
def said_if_nothing_trains() -> Iterator[None]:
    """Says at the end of a script that nothing has been trained, unless something has, or the script has failed."""
    try:
        yield
    except SystemExit as leaving:
        if not leaving.code:
            _say_if_nothing_was_trained()
        raise
    _say_if_nothing_was_trained()


def _say_if_nothing_was_trained() -> None:
    from lightning_shim.trial.trial import LightningTrial

    if not LightningTrial.was_made:
        say("the script has ended without a call of Trainer.fit, so nothing was trained.")


def _launch(script: str, arguments: Sequence[str], is_module: bool) -> NoReturn:
    info = trial_info()
    if info is not None and info.container_rank == 0:
        say("the trial has several slots. determined.launch.torch_distributed starts a process for each of them.")
    # Its own options end with the first "--"; the script may have some.
    launcher = [sys.executable, "-m", "determined.launch.torch_distributed", "--"]
    run = [sys.executable, "-m", "lightning_shim", "run", *(["-m"] if is_module else []), script, *arguments]
    os.execv(sys.executable, [*launcher, *run])


def _own_part(frames: TracebackType | None) -> TracebackType | None:
    launchers = (__file__, runpy.__file__, "<frozen runpy>", "<frozen importlib._bootstrap>")
    while frames is not None and frames.tb_frame.f_code.co_filename in launchers:
        frames = frames.tb_next
    return frames
