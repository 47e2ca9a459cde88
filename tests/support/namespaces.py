"""The packages that Lightning is published as."""

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
