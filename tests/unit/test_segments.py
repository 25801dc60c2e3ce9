"""What a job has made and may still have is read so that nobody dies of what becomes of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dispy_trio.child.parts import new_segment
from dispy_trio.child.stretch import new_file
from dispy_trio.runtime.segments import content_of

CONTENT = b"0123456789" * 1000


def test_a_file_that_is_shortened_is_filled_up_with_zeros(tmp_path: Path) -> None:
    segment = new_file(str(tmp_path), "result")
    os.write(segment, CONTENT)
    content = content_of(segment)
    os.ftruncate(segment, 15)
    os.close(segment)
    assert len(content) == len(CONTENT)
    assert bytes(content[:20]) == CONTENT[:15] + bytes(5)
    assert bytes(content[9_990:20_000]) == bytes(10)


def test_a_memory_file_whose_size_stays_is_mapped() -> None:
    segment = new_segment()
    os.write(segment, CONTENT)
    fcntl.fcntl(segment, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    content = content_of(segment)
    os.close(segment)
    assert isinstance(content, memoryview)
    assert bytes(content) == CONTENT


def test_its_descriptor_goes_with_it(tmp_path: Path) -> None:
    segment = new_file(str(tmp_path), "result")
    before = len(os.listdir("/proc/self/fd"))
    content = content_of(segment)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del content
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(segment)
