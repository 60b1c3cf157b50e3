"""Artifacts and PCM in storage."""
