"""Calls of any function: what a cluster without a computation of its own runs in its workers.

A function lies in the computation's directory, under the digest of its contents, and a call says
which one it is for. A worker loads each once.
"""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from dispy_trio.child import context, homes, importer

__all__ = ["DIRECTORY", "FUNCTION", "PICKLED", "FunctionMissing", "call"]

DIRECTORY = ".functions"
"""Below that of the computation."""
FUNCTION = "dispy_trio function"
"""The keyword, which no function can have, that says which one is called."""
PICKLED = "dispy_trio arguments"
"""Another: the arguments, to be unpickled when the classes of the function are there."""

MOST_KNOWN = 256
"""Functions that a worker keeps; what they refer to may be large."""

_known: OrderedDict[str, Callable[..., Any]] = OrderedDict()


class FunctionMissing(Exception):
    """The function did not reach this node, or not yet; the client sends it and tries again."""


def call(*args: Any, **kwargs: Any) -> Any:
    """Call a function that the client has put here.

    Raises:
        FunctionMissing: it is not here.
        Exception: whatever the function raises.
    """
    digest = kwargs.pop(FUNCTION)
    function = _known.get(digest)
    if function is None:
        function = _load(digest)
    else:
        _known.move_to_end(digest)
    pickled = kwargs.pop(PICKLED, None)
    if pickled is not None:
        args, kwargs = pickle.loads(pickled)
    return function(*args, **kwargs)


def _load(digest: str) -> Callable[..., Any]:
    path = os.path.join(context.root, DIRECTORY, digest)
    try:
        with open(path, "rb") as file:
            bundle = pickle.load(file)
    except FileNotFoundError:
        raise FunctionMissing(digest) from None
    if bundle["sources"]:
        importer.install(bundle["sources"], path)
    contents = pickle.loads(bundle["pickled"])
    homes.settle(contents["classes"])
    function: Callable[..., Any] = contents["function"]
    _known[digest] = function
    if len(_known) > MOST_KNOWN:
        _known.popitem(last=False)
    return function
