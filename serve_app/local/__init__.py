"""The service on one machine: checks, the embedded Valkey, Ray, start and stop."""
