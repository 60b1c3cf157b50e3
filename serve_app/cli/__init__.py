"""The command `murmur`: a client of the public API, and a way to start the service."""
