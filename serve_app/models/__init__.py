"""Dataclasses that all packages share; no I/O."""
