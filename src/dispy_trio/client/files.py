"""Files between a client and its nodes, over connections of their own."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import trio

from dispy_trio import config, messages, seams
from dispy_trio.errors import ConnectionLost, ProtocolError, RemoteError
from dispy_trio.models import JobFile
from dispy_trio.protocol.codec import encode
from dispy_trio.runtime.threads import run_in_thread
from dispy_trio.runtime.transfer import (
    describe_file,
    receive_file,
    receive_message,
    safe_path,
    send_file,
)

__all__ = ["fetch_offered", "put_files"]

Dial = Callable[[], Awaitable[seams.ByteStream]]
"""Opens an authenticated connection for files."""


async def put_files(
    dial: Dial, node: str, files: Iterable[JobFile], computation: int, job: int, dest_path: str
) -> int:
    """Put files onto a node, those that are not there already.

    Args:
        dial: opens a connection to it.
        node: its name, for error texts.
        files: what goes where.
        computation: that needs them.
        job: the job that needs them; 0 for all of the computation.
        dest_path: of the computation.

    Returns:
        Bytes that were sent.

    Raises:
        RemoteError: the node refused one; names it and says why.
        ConnectionLost, ConnectError: the node is not there.
        OSError: one can't be read here.
    """
    stream = await dial()
    sent = 0
    try:
        for request, file in enumerate(files, 1):
            sent += await _put_one(stream, node, file, request, computation, job, dest_path)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.aclose()
    return sent


async def _put_one(
    stream: seams.ByteStream,
    node: str,
    file: JobFile,
    request: int,
    computation: int,
    job: int,
    dest_path: str,
) -> int:
    size, digest, mode, modified = await run_in_thread(describe_file, file.source)
    put = messages.PutFile(
        request, computation, job, dest_path, file.target, size, digest, mode, modified
    )
    await stream.send_all(encode(put))
    answer = await receive_message(stream)
    sent = 0
    if isinstance(answer, messages.FileWanted):
        await send_file(stream, Path(file.source), size)
        sent = size
        answer = await receive_message(stream)
    if isinstance(answer, messages.FileMissing):
        raise RemoteError(f"node {node} did not take the file {file.source!r}: {answer.text}")
    if answer is None:
        raise ConnectionLost(f"node {node} ended while it was sent the file {file.source!r}")
    if not isinstance(answer, messages.FileStored):
        raise ProtocolError(f"node {node} answered a file with {type(answer).__name__}")
    return sent


async def fetch_offered(dial: Dial, node: str, offered: messages.FileOffered) -> int:
    """Take a file that a job sends, into the same relative path where this program runs.

    Returns:
        Bytes that were received.

    Raises:
        RemoteError: it is too large, would lie elsewhere, or is gone.
        ConnectionLost, ConnectError: the node is not there.
        OSError: it can't be written here.
    """
    if config.MaxFileSize and offered.size > config.MaxFileSize:
        raise RemoteError(
            f"{offered.path!r} has {offered.size} bytes, more than the {config.MaxFileSize} that"
            " the client allows (config.MaxFileSize)"
        )
    target = safe_path(os.getcwd(), offered.path)
    stream = await dial()
    try:
        await stream.send_all(encode(messages.FetchFile(offered.request, offered.file)))
        answer = await receive_message(stream)
        if isinstance(answer, messages.FileMissing):
            raise RemoteError(f"node {node}: {answer.text}")
        if not isinstance(answer, messages.FileFollows) or answer.size != offered.size:
            raise ProtocolError(f"node {node} does not have the file that it offered")
        await receive_file(
            stream, target, offered.size, mode=offered.mode, modified=offered.modified
        )
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.aclose()
    return offered.size
