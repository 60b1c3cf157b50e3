"""Fetching sources: guarded HTTP and object storage buckets."""
