"""`DispyHTTPServer`, for programs of dispy that open its page: there is none in this release.

Such programs run as they are. No result depends on the page, so the server takes all calls, opens no
port, and says once on the log that it shows nothing.
"""

from __future__ import annotations

import os
import threading

from dispy_trio.logs import log

__all__ = ["DispyHTTPServer"]

_telling = threading.Lock()
_was_told = False


def _tell() -> None:
    """Say it, once in a program."""
    global _was_told
    with _telling:
        was_told, _was_told = _was_told, True
    if not was_told:
        log.warning(
            "there is no web page in this release: DispyHTTPServer shows nothing and opens no port;"
            " jobs run the same without it, and cluster.print_status() prints a table of the nodes"
        )


class DispyHTTPServer:
    """Has dispy's parameters and methods, and shows nothing."""

    def __init__(
        self,
        cluster: object,
        host: str = "",
        port: int = 8181,
        poll_sec: float = 10,
        DocumentRoot: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        certfile: str | os.PathLike[str] | None = None,
        show_job_args: bool = True,
    ) -> None:
        """Say that there is no page; none of the arguments has an effect.

        Args:
            cluster: whose nodes and jobs it would show; or None.
            host: where it would listen.
            port: where it would listen.
            poll_sec: seconds after which the page would ask anew.
            DocumentRoot: folder of the page.
            keyfile: private key of `certfile`.
            certfile: certificate, for a page over HTTPS.
            show_job_args: whether the page would show the arguments of jobs.
        """
        _tell()

    def add_cluster(self, cluster: object) -> None:
        """Would show this cluster, too."""

    def del_cluster(self, cluster: object) -> None:
        """Would not show this cluster any more."""

    def cluster_status(self, cluster_info: object, status: int, node: object, job: object) -> None:
        """Would show what happened to a node or a job."""

    def shutdown(self, wait: bool = True) -> None:
        """Return at once, whatever `wait` is: no browser has to be told anything."""
