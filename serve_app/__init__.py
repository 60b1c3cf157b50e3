"""The edge: HTTP, jobs and their state in Redis, and the graph of Ray Serve deployments."""
