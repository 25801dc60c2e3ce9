"""Programs for the command line, from files and modules."""

import pytest

from dispy_mapreduce import BadProgram, load_module


def test_a_file(tmp_path):
    """With a combiner or without."""
    path = tmp_path / "count_program.py"
    path.write_text("def mapper(line):\n    yield line, 1\nreducer = sum\n")
    program = load_module(str(path))
    assert list(program.mapper("x")) == [("x", 1)]
    assert program.reducer is sum
    assert program.combiner is None
    path.write_text("mapper = reducer = combiner = max\n")
    assert load_module(str(path)).combiner is max


def test_a_module():
    """By its dotted name."""
    with pytest.raises(BadProgram, match="does not define mapper and reducer"):
        load_module("dispy_mapreduce.errors")


def test_a_file_does_not_replace_a_module_of_its_name(tmp_path):
    """Other code goes on with what it has imported."""
    import operator

    path = tmp_path / "operator.py"
    path.write_text("mapper = reducer = max\n")
    assert load_module(str(path)).mapper is max
    import operator as again

    assert again is operator
    assert operator.add(1, 1) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mapper = 3", "does not define reducer"),
        ("1 / 0", "can't be imported: ZeroDivisionError: division by zero"),
        ("exit(3)", "can't be imported: SystemExit: 3"),
        ("def", "can't be imported"),
    ],
)
def test_files_that_are_no_programs(tmp_path, content, message):
    """The text says what is missing."""
    path = tmp_path / "bad_program.py"
    path.write_text(content)
    with pytest.raises(BadProgram, match=message):
        load_module(str(path))


def test_programs_that_are_not_there():
    """Neither as files nor as modules."""
    with pytest.raises(BadProgram, match=r"not/there\.py is not there"):
        load_module("not/there.py")
    with pytest.raises(BadProgram, match="can't be imported"):
        load_module("no_such_module_at_all")
