"""The assertions of the suites tell what they compared, wherever they are written."""

import pytest

pytest.register_assert_rewrite("tests.conformance.backends")
