"""What several of these tests run tasks with."""

import pytest

from dispy_mapreduce.engines.inline import DirectoryStore


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "blocks"
    directory.mkdir()
    return DirectoryStore(str(directory))
