"""Clean English for the tests of diversity."""

import pytest

from validation.datasets.standard_library import standard_library_rows


@pytest.fixture(scope="session")
def clean_rows():
    return standard_library_rows()
