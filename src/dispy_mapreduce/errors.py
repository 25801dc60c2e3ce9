"""What can go wrong in a map_reduce, each naming the input, record, key or task it is about.

All of them survive pickling: their parts are positional and kept in ``args``.
"""

from __future__ import annotations

from dispy_trio import DispyError

__all__ = [
    "BadProgram",
    "BlocksLost",
    "EngineMisused",
    "InputError",
    "MapReduceError",
    "MapperFailed",
    "OutputError",
    "ReducerFailed",
    "RemoteTraceback",
    "TaskLost",
    "UnstableKey",
]


class MapReduceError(DispyError):
    """Root of what `dispy_mapreduce` raises on purpose."""


class InputError(MapReduceError):
    """An input is missing or can't be read, or a pattern matches nothing; said before any work."""


class OutputError(MapReduceError):
    """The output directory can't be written to, or holds results already; said before any work."""


class BadProgram(MapReduceError):
    """A module does not define what a map_reduce needs, or a function has the wrong shape."""


class UnstableKey(MapReduceError, TypeError):
    """A key's type has no hash that is the same in every process."""


class MapperFailed(MapReduceError):
    """The mapper raised; the text names the record, the cause is what it raised."""


class ReducerFailed(MapReduceError):
    """The reducer or combiner raised; the text names the key, the cause is what it raised."""


class TaskLost(MapReduceError):
    """A task ended without an answer: its process died, or its node was lost for good."""


class BlocksLost(MapReduceError):
    """Intermediate blocks went missing again and again, however often they were made anew."""


class EngineMisused(MapReduceError):
    """An engine was given to something it can't serve."""


class RemoteTraceback(Exception):
    """Carries the text of a traceback from another process, as the cause of an exception."""

    def __str__(self) -> str:
        return "\n\n" + str(self.args[0])
