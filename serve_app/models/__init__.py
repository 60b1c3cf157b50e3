"""Frozen dataclasses that every part shares; no I/O."""
