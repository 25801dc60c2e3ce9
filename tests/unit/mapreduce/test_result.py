"""Results are in order when iterated over, and part files are there all or not at all."""

import pytest

from dispy_mapreduce import OutputError
from dispy_mapreduce.columns import encode
from dispy_mapreduce.result import MapReduceResult, PartFiles, ResultParts


@pytest.mark.parametrize("limit", [0, 30, 1 << 20])
def test_partitions_come_in_order_whatever_they_arrived_in(limit):
    """From memory or from the spill file."""
    parts = ResultParts(limit)
    parts.put(2, b"", in_order=False)
    parts.put(1, encode(["d", "c"], [4, 3]), in_order=False)
    parts.put(0, encode(["a", "b"], [1, 2]), in_order=True)
    result = MapReduceResult(None, parts)
    pairs = [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert list(result) == pairs
    assert result.partitions == 3
    assert [list(result.partition(number)) for number in range(3)] == [pairs[:2], pairs[2:], []]
    assert sorted(result.items()) == pairs
    assert result.to_dict() == dict(pairs)
    parts.close()


def test_a_gathered_result_has_one_partition():
    """And it is iterated in order too."""
    result = MapReduceResult({"b": 1, "a": 2})
    assert list(result) == [("a", 2), ("b", 1)]
    assert list(result.items()) == [("b", 1), ("a", 2)]
    assert result.partitions == 1
    assert result.to_dict() == {"a": 2, "b": 1}
    assert list(MapReduceResult({})) == []


def test_part_files_appear_when_all_are_written(tmp_path):
    """A reader never sees half of them."""
    parts = PartFiles(tmp_path / "new" / "out")
    parts.prepare()
    parts.put(1, b"b\t1\n", in_order=True)
    parts.put(0, b"a\t1\n", in_order=True)
    assert list(parts.directory.glob("part-*")) == []
    paths = parts.publish()
    assert [path.name for path in paths] == ["part-00000", "part-00001"]
    assert [path.read_bytes() for path in paths] == [b"a\t1\n", b"b\t1\n"]
    assert len(list(parts.directory.iterdir())) == 2


def test_an_abandoned_run_leaves_no_file(tmp_path):
    """Neither under the hidden names."""
    parts = PartFiles(tmp_path)
    parts.prepare()
    parts.put(0, b"a\t1\n", in_order=True)
    parts.abandon()
    assert list(tmp_path.iterdir()) == []


def test_directories_that_can_not_be_used_are_refused(tmp_path):
    """Before any work."""
    (tmp_path / "part-00000").write_text("old")
    with pytest.raises(OutputError, match="holds part files already"):
        PartFiles(tmp_path).prepare()
    with pytest.raises(OutputError, match="Not a directory"):
        PartFiles(tmp_path / "part-00000" / "below").prepare()
