"""Decodes windows with a model."""
