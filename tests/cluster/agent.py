"""A stand-in for Determined's agent: runs a trial's processes as its container would, and keeps what they print.

The container's own programs are the installed ones: ``determined.exec.prep_container`` asks the master and writes down
what the trial may know, ``determined.exec.launch`` starts the experiment's entrypoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.cluster.master import Master
from tests.support.ports import free_ports
from tests.support.prepared_python import python
from tests.support.repository import REPOSITORY

# In seconds; a run takes about six, one with several processes about fifteen.
TIME_LIMIT = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Attributes:
        exit_code: The entrypoint's.
        log: What the processes have printed, which a cluster shows as the trial's log.
        folder: What the run has left in its working directory.
    """

    exit_code: int
    log: str
    folder: Path


def run(master: Master, context: dict[str, str], disk: Path, afterwards: Path) -> Outcome:
    """Runs the present run of a trial to its end.

    Args:
        master: The master, which has started a run.
        context: The files of the context directory, by name.
        disk: Where to make the container's disk. All runs of a trial see theirs under the same path.
        afterwards: Where the disk is moved when the run has ended: the next run finds nothing that is not in a
            checkpoint.
    """
    workdir, run_determined = disk / "workdir", disk / "run_determined"
    for copy in (workdir, run_determined / "train" / "model"):
        copy.mkdir(parents=True)
        for name, text in context.items():
            (copy / name).write_text(text)
    (run_determined / "info").mkdir()
    environment = _environment(master, run_determined)
    log = disk / "log.txt"
    with _cleaned_up(environment["DET_ALLOCATION_ID"]), log.open("wb") as stream:
        for program in (["prep_container", "--resources", "--rendezvous", "--proxy"], ["launch"]):
            command = ["python3", "-m", f"determined.exec.{program[0]}", *program[1:]]
            exit_code = _call(command, workdir, environment, stream)
            if exit_code:
                break
    disk.rename(afterwards)
    return Outcome(exit_code, (afterwards / log.name).read_text(), afterwards / workdir.name)


def _environment(master: Master, run_determined: Path) -> dict[str, str]:
    of_the_machine = {
        name: value for name, value in os.environ.items() if not name.startswith(("DET_", "PL_", "PYTEST_"))
    }
    port_names = ("INTER_TRAIN_PROCESS_COMM_PORT_1", "INTER_TRAIN_PROCESS_COMM_PORT_2", "C10D_PORT")
    return {
        **of_the_machine,
        **master.environment(),
        **dict(zip(port_names, map(str, free_ports(len(port_names))), strict=True)),
        "CONTAINER_RUN_DETERMINED": str(run_determined),
        "PATH": os.pathsep.join([os.path.dirname(python()), os.environ["PATH"]]),
        # What is tested is this package, wherever another one may be installed from.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "container"), str(REPOSITORY)]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": str(run_determined),
        "XDG_DATA_HOME": str(run_determined),
    }


def _call(command: list[str], folder: Path, environment: dict[str, str], stream: BinaryIO) -> int:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(TIME_LIMIT)
    except BaseException:
        # The launchers end their children, if they are told to end and have the time.
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        raise


@contextlib.contextmanager
def _cleaned_up(allocation_id: str) -> Iterator[None]:
    """Removes what Determined writes outside the container's folders, under names of the allocation."""
    try:
        yield
    finally:
        shutil.rmtree(f"/tmp/tensorboard-{allocation_id}-0", ignore_errors=True)
        Path(f"/tmp/pid_server-{allocation_id}").unlink(missing_ok=True)
