"""Tests of ray_serve."""
