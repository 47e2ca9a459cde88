"""An unchanged script's ``Trainer.fit``, run as a trial on Determined."""
