"""What tests of dialects share."""

from __future__ import annotations

import pytest

from tests.service.conftest import served

pytest.register_assert_rewrite("tests.dialects.contract")

__all__ = ["served"]
