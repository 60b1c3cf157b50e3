"""Tests of what stands at the borders: bodies, formats, settings, storage, outgoing requests, weights, errors."""
