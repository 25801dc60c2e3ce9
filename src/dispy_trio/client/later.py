"""Names of dispy that are not in this release: programs that import them run, until they use them."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["SharedJobCluster", "recover_jobs"]


class SharedJobCluster:
    """Not in this release: `JobCluster` serves meanwhile."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Say so.

        Raises:
            NotImplementedError: tells what to use meanwhile.
        """
        raise NotImplementedError(
            "SharedJobCluster is not in this release of dispy_trio: use JobCluster meanwhile; many"
            " programs may use the same nodes at once, which serve them side by side"
        )


def recover_jobs(*args: Any, **kwargs: Any) -> NoReturn:
    """Not in this release: nothing fetches the results of a client that is gone.

    Raises:
        NotImplementedError: tells what to do meanwhile.
    """
    raise NotImplementedError(
        "recover_jobs is not in this release of dispy_trio: what runs on the nodes when a program"
        " dies is lost to it; have jobs write their results to files, with dest_path= and"
        " cleanup=False, and submit again those that are missing"
    )
