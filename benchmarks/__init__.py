"""What a step costs in a plain loop, a hand-written trial, LightningTrial and Lightning's Trainer, side by side."""
