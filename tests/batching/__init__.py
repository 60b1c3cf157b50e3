"""The arithmetic, tested by examples and by properties."""
