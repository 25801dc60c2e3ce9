"""What a program's module must not do where a node imports it for its functions: make a cluster.

Such a cluster would have its node import the module too, and so on without end. The exception
hinders nothing: functions of a module that fails run all the same, if they can do without what
failed.
"""

from __future__ import annotations

from dispy_trio.child.importer import module_being_imported

__all__ = ["refuse_in_import"]


def refuse_in_import() -> None:
    """See that no module which came with a computation is being imported on this thread.

    Raises:
        RuntimeError: one is; names it, and what to do.
    """
    if (module := module_being_imported()) is not None:
        raise RuntimeError(
            f"the module {module!r} makes a cluster whenever it is imported, and nodes import it for"
            " its functions: make the cluster in a function, or under"
            ' `if __name__ == "__main__":`'
        )
