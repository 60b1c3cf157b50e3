"""The edge: HTTP, the job record in Redis, and the root that composes the stages into one application."""
