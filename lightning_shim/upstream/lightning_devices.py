"""Arguments of a Trainer about devices and plugins that Lightning refuses on any machine."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any

from lightning_shim.upstream.namespaces import Namespace


class _Checked(Exception):
    """Ends the constructor before it looks at this machine."""


def refuse_contradictions(namespace: Namespace, given: dict[str, Any]) -> None:
    """Lets Lightning refuse arguments of a Trainer, in its own words, by what can be told without the devices."""
    connector = namespace.module("trainer.connectors.accelerator_connector")._AcceleratorConnector
    arguments = {name: given[name] for name in inspect.signature(connector).parameters.keys() & given.keys()}
    if isinstance(arguments.get("strategy"), str):
        # Which of them a machine has is its own affair.
        del arguments["strategy"]
    with contextlib.suppress(_Checked):
        _checking(connector)(**arguments)
    devices, classes = given.get("devices", "auto"), namespace.module("accelerators")
    if devices not in (None, "auto"):
        accelerator = classes.CPUAccelerator if given.get("accelerator") == "cpu" else classes.CUDAAccelerator
        # Another machine may have the devices that this one lacks.
        with contextlib.suppress(namespace.module("utilities.exceptions").MisconfigurationException):
            accelerator.parse_devices(devices)


@functools.cache
def _checking(connector: Any) -> Any:
    def end(self: Any) -> None:
        raise _Checked

    own = {
        "_choose_gpu_accelerator_backend": staticmethod(lambda: "cuda"),
        "_set_parallel_devices_and_init_accelerator": end,
    }
    return type("Checking", (connector,), own)
