"""Artifacts and PCM parts in local or object storage."""
