"""Trains an unchanged script's ``Trainer.fit`` as a trial."""
