"""Starts a script on processes of this machine, as a user does without a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.prepared_python import python
from tests.support.repository import REPOSITORY

TORCHRUN = ("-m", "torch.distributed.run")


def run(script: Path, *arguments: str, processes: int = 2, time_limit: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a script with torchrun.

    Args:
        script: The script.
        *arguments: Its arguments.
        processes: How many; one needs no torchrun.
        time_limit: In seconds; the test fails when it takes longer.

    Returns:
        How the launcher has ended, and what the processes have printed.
    """
    [port] = free_ports(1)
    launcher = [*TORCHRUN, f"--nproc_per_node={processes}", f"--master_port={port}"]
    started = _start([*(launcher if processes > 1 else []), str(script), *arguments], Path.cwd())
    return _finish(started, time_limit)


def run_on_machines(
    script: Path, folders: list[Path], *arguments: str, processes: int = 1, time_limit: float = 170
) -> list[subprocess.CompletedProcess[str]]:
    """Runs a script with torchrun on what its processes take for several machines.

    Args:
        script: The script.
        folders: The working directory of each machine, which its processes know as /proc/self/cwd.
        *arguments: The script's arguments.
        processes: How many on each machine.
        time_limit: As for :func:`run`.

    Returns:
        As :func:`run`, for each machine.
    """
    [port] = free_ports(1)
    launcher = [*TORCHRUN, f"--nnodes={len(folders)}", f"--nproc_per_node={processes}"]
    launcher += ["--master_addr=127.0.0.1", f"--master_port={port}"]
    started = [
        _start([*launcher, f"--node_rank={machine}", str(script), *arguments], folder)
        for machine, folder in enumerate(folders)
    ]
    with ThreadPoolExecutor() as threads:
        ends = [threads.submit(_finish, each, time_limit) for each in started]
        for end in as_completed(ends):
            if end.exception() or end.result().returncode:
                # The others would wait for it.
                for each in started:
                    _kill(each)
    return [end.result() for end in ends]


def _start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python(), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[str], time_limit: float) -> subprocess.CompletedProcess[str]:
    try:
        output, errors = process.communicate(timeout=time_limit)
    except BaseException:
        _kill(process)
        process.wait()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends a launcher, with the processes that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
