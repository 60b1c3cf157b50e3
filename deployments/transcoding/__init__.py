"""Decodes sources into PCM and windows."""
