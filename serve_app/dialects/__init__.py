"""Thin translations between vendors' wire formats and the core. They import neither each other, nor the store, nor Ray."""
