"""Importing this module patches Lightning for Determined; it is the one-line form of ``lightning_shim.patch()``."""

import lightning_shim

lightning_shim.patch()
