"""A stand-in for Determined's agents: runs a trial's processes as its containers would, and keeps what they print.

A container's own programs are the installed ones: ``determined.exec.prep_container`` asks the master and writes down
what the trial may know, ``determined.exec.launch`` starts the experiment's entrypoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.master import Master
from tests.support.ports import free_ports
from tests.support.prepared_python import python
from tests.support.repository import REPOSITORY

# In seconds; a run takes about six, one with several processes about fifteen.
TIME_LIMIT = 120.0

INTERVAL = 0.05
WORKDIR = "workdir"
LOG = "log.txt"
PROGRAMS = (
    "python3 -m determined.exec.prep_container --resources --rendezvous --proxy",
    "exec python3 -m determined.exec.launch",
)
# What sees its own disk under the path of everybody's.
OWN_DISK = ("unshare", "--map-root-user", "--mount")


@dataclass(frozen=True)
class Outcome:
    """How a run has ended.

    Attributes:
        exit_code: The entrypoint's; of several containers that of one which has failed.
        log: What the processes have printed, which a cluster shows as the trial's log.
        folder: What the run has left in its working directory; of several containers in the first one's.
    """

    exit_code: int
    log: str
    folder: Path


def run(
    master: Master, context: dict[str, str], disk: Path, afterwards: Path, time_limit: float = TIME_LIMIT
) -> Outcome:
    """Runs the present run of a trial to its end, with a container for each agent.

    Args:
        master: The master, which has started a run.
        context: The files of the context directory, by name.
        disk: Where to make a container's disk. All containers and runs of a trial see theirs under the same path; of
            several each has its own there, and none of the others'.
        afterwards: Where the disk is moved when the run has ended: the next run finds nothing that is not in a
            checkpoint. Of several it is the first one's.
        time_limit: How long the run may take, in seconds.
    """
    places = [disk] if master.agents == 1 else [Path(f"{disk}-{agent}") for agent in range(master.agents)]
    for place in places:
        _make_disk(place, context)
    environment = _environment(disk)
    with _cleaned_up(master.run.allocation_id), contextlib.ExitStack() as stack:
        disk.mkdir(exist_ok=True)
        containers = [
            stack.enter_context(_container(place, disk, {**environment, **master.environment(agent)}))
            for agent, place in enumerate(places)
        ]
        exit_code = _wait(containers, time.monotonic() + time_limit)
    log = "".join((place / LOG).read_text() for place in places)
    places[0].rename(afterwards)
    for place in places[1:]:
        shutil.rmtree(place)
    return Outcome(exit_code, log, afterwards / WORKDIR)


def _make_disk(place: Path, context: dict[str, str]) -> None:
    run_determined = place / "run_determined"
    for copy in (place / WORKDIR, run_determined / "train" / "model"):
        copy.mkdir(parents=True)
        for name, text in context.items():
            (copy / name).write_text(text)
    (run_determined / "info").mkdir()


def _environment(disk: Path) -> dict[str, str]:
    of_the_machine = {
        name: value for name, value in os.environ.items() if not name.startswith(("DET_", "PL_", "PYTEST_"))
    }
    port_names = ("INTER_TRAIN_PROCESS_COMM_PORT_1", "INTER_TRAIN_PROCESS_COMM_PORT_2", "C10D_PORT")
    run_determined = str(disk / "run_determined")
    return {
        **of_the_machine,
        **dict(zip(port_names, map(str, free_ports(len(port_names))), strict=True)),
        "CONTAINER_RUN_DETERMINED": run_determined,
        "PATH": os.pathsep.join([os.path.dirname(python()), os.environ["PATH"]]),
        # What is tested is this package, wherever another one may be installed from.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "container"), str(REPOSITORY)]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": run_determined,
        "XDG_DATA_HOME": run_determined,
    }


@contextlib.contextmanager
def _container(place: Path, disk: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a container, and ends what is left of it."""
    programs = " && ".join([f'cd "{disk / WORKDIR}"', *PROGRAMS])
    command = ["sh", "-c", programs]
    if place != disk:
        command = [*OWN_DISK, "sh", "-c", f'mount --bind "{place}" "{disk}" && {programs}']
    with (place / LOG).open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        # The launchers end their children, if they are told to end and have the time.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


def _wait(containers: list[subprocess.Popen[bytes]], deadline: float) -> int:
    """Waits until all containers have ended, or one has failed, for which the master ends the others."""
    while True:
        codes = [container.poll() for container in containers]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        if time.monotonic() > deadline:
            raise TimeoutError("the run takes too long")
        time.sleep(INTERVAL)


@contextlib.contextmanager
def _cleaned_up(allocation_id: str) -> Iterator[None]:
    """Removes what Determined writes outside the container's folders, under names of the allocation."""
    try:
        yield
    finally:
        for left in Path("/tmp").glob(f"tensorboard-{allocation_id}-*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in Path("/tmp").glob(f"pid_server-{allocation_id}*"):
            left.unlink()
