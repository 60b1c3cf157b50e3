"""HTTP helpers that belong to no vendor: authentication, uploads, ranges, SSE, metrics."""
