"""Batched decoding of windows by a model, and the weights it is loaded from."""
