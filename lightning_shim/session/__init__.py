"""Everything that is fixed for one training."""
