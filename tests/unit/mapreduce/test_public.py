"""The public names are there, and importing them costs little."""

import subprocess
import sys

import pytest

import dispy_mapreduce


def test_all_public_names_are_there():
    """Each is listed, and leads to something."""
    for name in dispy_mapreduce.__all__:
        assert getattr(dispy_mapreduce, name) is not None
    assert set(dispy_mapreduce.__all__) <= set(dir(dispy_mapreduce))


def test_an_unknown_name_is_an_attribute_error():
    """As of any module."""
    with pytest.raises(AttributeError, match="nothing_like_it"):
        dispy_mapreduce.nothing_like_it  # noqa: B018 - to look it up is the test


def test_importing_the_package_imports_nothing_else():
    """Workers and command lines start with it."""
    code = "import sys, dispy_mapreduce; print([m for m in ('trio', 'attrs', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
