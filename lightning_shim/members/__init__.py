"""The tables of Lightning's members and Trainer arguments, with their support on Determined. Data only."""
