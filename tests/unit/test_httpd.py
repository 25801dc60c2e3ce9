"""The web server of dispy's programs, which has nothing to show in this release."""

from __future__ import annotations

import inspect
import subprocess
import sys

PROGRAM = """
import logging
import dispy_trio as dispy
import dispy_trio.httpd

logging.basicConfig(format="%(message)s")
server = dispy.httpd.DispyHTTPServer(None, host="127.0.0.1", port=1, poll_sec=3600)
server.add_cluster(None)
server.cluster_status(None, dispy.DispyJob.Running, None, None)
server.del_cluster(None)
server.shutdown()
server.shutdown(wait=True)
other = dispy.httpd.DispyHTTPServer(cluster=None, DocumentRoot="/nowhere")
other.shutdown(wait=False)
print("as without it")
"""


def test_programs_that_open_dispy_s_page_run_and_are_told_once_that_there_is_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "as without it\n"
    assert done.stderr == (
        "there is no web page in this release: DispyHTTPServer shows nothing and opens no port;"
        " jobs run the same without it, and cluster.print_status() prints a table of the nodes\n"
    )


def test_it_has_all_that_dispy_s_has() -> None:
    from dispy_trio.httpd import DispyHTTPServer

    def parameters(function: object) -> str:
        assert callable(function)
        return " ".join(name for name in inspect.signature(function).parameters)

    expected = "cluster host port poll_sec DocumentRoot keyfile certfile show_job_args"
    assert parameters(DispyHTTPServer) == expected
    assert parameters(DispyHTTPServer.add_cluster) == "self cluster"
    assert parameters(DispyHTTPServer.del_cluster) == "self cluster"
    assert parameters(DispyHTTPServer.shutdown) == "self wait"
    assert parameters(DispyHTTPServer.cluster_status) == "self cluster_info status node job"
