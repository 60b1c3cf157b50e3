"""Short leases for the tests of this package."""

from tests.lib.short_leases import leases

__all__ = ["leases"]
