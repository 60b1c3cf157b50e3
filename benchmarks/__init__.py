"""Measurements of the whole service, side by side in one run; README.md holds their tables."""
