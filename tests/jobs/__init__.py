"""The core on a real Valkey: store, events, runner."""
