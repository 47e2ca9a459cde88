"""The table of members: their support on Determined. Data only."""
