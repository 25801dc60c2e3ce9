"""Map and reduce over the processors of a dispy_trio cluster.

>>> from dispy_mapreduce import map_reduce
>>> counts = map_reduce(words, sum, "books/*.txt").to_dict()

Names are handed on lazily, so that importing this costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispy_mapreduce.api import map_reduce as map_reduce
    from dispy_mapreduce.api import map_reduce_async as map_reduce_async
    from dispy_mapreduce.engines.cluster import ClusterEngine as ClusterEngine
    from dispy_mapreduce.engines.inline import InlineEngine as InlineEngine
    from dispy_mapreduce.errors import BadProgram as BadProgram
    from dispy_mapreduce.errors import BlocksLost as BlocksLost
    from dispy_mapreduce.errors import InputError as InputError
    from dispy_mapreduce.errors import MapperFailed as MapperFailed
    from dispy_mapreduce.errors import MapReduceError as MapReduceError
    from dispy_mapreduce.errors import OutputError as OutputError
    from dispy_mapreduce.errors import ReducerFailed as ReducerFailed
    from dispy_mapreduce.errors import TaskLost as TaskLost
    from dispy_mapreduce.errors import UnstableKey as UnstableKey
    from dispy_mapreduce.plan import block_mapper as block_mapper
    from dispy_mapreduce.plan import files as files
    from dispy_mapreduce.program import load_module as load_module
    from dispy_mapreduce.program import run_program as run_program
    from dispy_mapreduce.result import MapReduceResult as MapReduceResult

_HOMES = {
    "map_reduce": "api",
    "map_reduce_async": "api",
    "ClusterEngine": "engines.cluster",
    "InlineEngine": "engines.inline",
    "block_mapper": "plan",
    "files": "plan",
    "load_module": "program",
    "run_program": "program",
    "MapReduceResult": "result",
    **dict.fromkeys(
        (
            "BadProgram",
            "BlocksLost",
            "InputError",
            "MapReduceError",
            "MapperFailed",
            "OutputError",
            "ReducerFailed",
            "TaskLost",
            "UnstableKey",
        ),
        "errors",
    ),
}

__all__ = [*sorted(_HOMES)]  # noqa: PLE0604 - every key is a str


def __getattr__(name: str) -> object:
    import importlib

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
