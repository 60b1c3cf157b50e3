"""Fetches sources over HTTP and from buckets."""
