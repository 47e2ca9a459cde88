"""Gives the processes of a container their /run/determined, which is a folder of the test here.

Python imports this module when it starts, since the agent has put its folder on the ``PYTHONPATH``. Nothing may be left
under the real /run/determined: Determined would take every later process of the machine for a part of a trial.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import wrapt

REAL_FOLDER = "/run/determined/"


def redirected(path: str) -> str:
    return os.path.join(os.environ["CONTAINER_RUN_DETERMINED"], path.removeprefix(REAL_FOLDER))


def redirect_constants(constants: ModuleType) -> None:
    for name, value in list(vars(constants).items()):
        if isinstance(value, str) and value.startswith(REAL_FOLDER):
            setattr(constants, name, redirected(value))


def redirect_info_files(info: ModuleType) -> None:
    for name in ("ClusterInfo", "TrialInfo", "RendezvousInfo", "ResourcesInfo"):
        for method in ("_from_file", "_to_file"):
            function: Any = getattr(getattr(info, name), method)
            function = getattr(function, "__func__", function)
            (path,) = function.__defaults__
            function.__defaults__ = (redirected(path),)


def separate_sockets(ipc: ModuleType) -> None:
    """Gives each of several containers a socket of its own in the /tmp that they share here."""
    read = ipc.read_pid_server_addr
    ipc.read_pid_server_addr = lambda address: read(f"{address}-{os.environ['DET_CONTAINER_ID']}")


# Determined is not imported here: most processes of a container would have no use for it.
wrapt.register_post_import_hook(redirect_constants, "determined.constants")
wrapt.register_post_import_hook(redirect_info_files, "determined._info")
wrapt.register_post_import_hook(separate_sockets, "determined.ipc")
