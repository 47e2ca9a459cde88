"""Patches Lightning for Determined when it is imported: the one-line form of ``lightning_shim.patch()``."""

import lightning_shim

lightning_shim.patch()
