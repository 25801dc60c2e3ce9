"""Files that jobs leave in a node's keeping, and files it fetches from other nodes.

A kept file is known by 32 hex digits that nobody can guess: to know them is to be allowed to read
it. It lives as long as the computation whose job gave it away. A job that wants one asks its own
node, which has it here or fetches it from the node that keeps it: the worker process itself holds
no secret and opens no connection.

A fetch is an authenticated connection of its own: one request, one answer, then the bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.errors import ConnectionLost, ProtocolError, RemoteError
from dispy_trio.protocol.auth import Kind, Role
from dispy_trio.protocol.codec import decode, encode
from dispy_trio.protocol.framing import FRAME_HEADER
from dispy_trio.runtime.peer import dial_connection
from dispy_trio.services.outside import Outside

__all__ = ["FileService"]

Owner = tuple[str, int]
"""Session and computation."""

REQUEST_LIMIT = 4096
"""Bytes of a request or an answer."""
CHUNK = 1024 * 1024


@define(eq=False)
class FileService:
    """The kept files of one node."""

    outside: Outside
    identity: str
    """Of this node, for its own requests."""
    address: str
    """``host:port`` where other nodes find us."""
    _paths: dict[str, Path] = field(factory=dict)
    _owners: dict[Owner, list[str]] = field(factory=dict)
    _fetched: dict[tuple[Owner, str], Path] = field(factory=dict)
    _fetching: dict[tuple[Owner, str], trio.Lock] = field(factory=dict)

    # --- what jobs ask -------------------------------------------------------------------------
    async def answer(
        self, owner: Owner, directory: str, kind: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Answer a call of a running job.

        Raises:
            DispyError: what is wrong with the request; for the job to hear.
        """
        match kind, body:
            case "keep_file", {"path": str(path)}:
                token, size = self._keep(owner, directory, path)
                return {"address": self.address, "file": token, "size": size}
            case "fetch_file", {"address": str(address), "file": str(token), "size": int(size)}:
                return {"path": str(await self._fetch(owner, directory, address, token, size))}
            case _:
                raise RemoteError(f"a node has no {kind!r} for jobs, or not with {sorted(body)}")

    def _keep(self, owner: Owner, directory: str, path: str) -> tuple[str, int]:
        source = Path(directory, path).resolve()
        if not source.is_relative_to(Path(directory).resolve()):
            raise RemoteError(f"{path!r} lies outside of the job's directory {directory}")
        if not source.is_file():
            raise RemoteError(f"{path!r} is not a file")
        token = self.outside.draw_token(32)
        target = self._room(directory, token)
        os.rename(source, target)
        self._paths[token] = target
        self._owners.setdefault(owner, []).append(token)
        return token, target.stat().st_size

    @staticmethod
    def _room(directory: str, token: str) -> Path:
        kept = Path(directory, ".kept")
        kept.mkdir(mode=0o700, exist_ok=True)
        return kept / token

    async def _fetch(
        self, owner: Owner, directory: str, address: str, token: str, size: int
    ) -> Path:
        if (here := self._paths.get(token)) is not None:
            return here
        if len(token) != 32 or not set(token) <= set("0123456789abcdef"):
            raise RemoteError(f"{token!r} is no file id")
        key = (owner, token)
        # Several jobs may want it at once: the first fetches, the others wait for it.
        async with self._fetching.setdefault(key, trio.Lock()):
            if (fetched := self._fetched.get(key)) is None:
                fetched = self._room(directory, token)
                await self._download(address, token, size, fetched)
                self._fetched[key] = fetched
        return fetched

    def forget(self, owner: Owner) -> None:
        """The owner's directory is going, and its files with it."""
        for token in self._owners.pop(owner, ()):
            del self._paths[token]
        for key in [key for key in self._fetched if key[0] == owner]:
            del self._fetched[key]
        for key in [key for key in self._fetching if key[0] == owner]:
            del self._fetching[key]

    # --- between nodes -------------------------------------------------------------------------
    async def _download(self, address: str, token: str, size: int, target: Path) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            raise RemoteError(f"{address!r} is no address of a node")
        hello = self.outside.hello(Role.NODE, Kind.FILE, self.identity)
        stream, _ = await dial_connection(
            self.outside.net, host.strip("[]"), int(port), self.outside.secret.value, hello
        )
        part = target.with_suffix(".part")
        try:
            await stream.send_all(encode(messages.FetchFile(1, token)))
            answer = await _receive_message(stream)
            if isinstance(answer, messages.FileMissing):
                raise RemoteError(f"node {address}: {answer.text}")
            if not isinstance(answer, messages.FileFollows) or answer.size != size:
                raise ProtocolError(f"node {address} does not have the file that was promised")
            with part.open("xb", buffering=0) as file:
                buffer = memoryview(bytearray(min(size, CHUNK) or 1))
                left = size
                while left:
                    count = await stream.receive_into(buffer[: min(left, CHUNK)])
                    if not count:
                        raise ConnectionLost(f"node {address} ended in the middle of a file")
                    file.write(buffer[:count])
                    left -= count
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.aclose()

    async def serve(self, stream: seams.ByteStream) -> None:
        """Answer another node's request, and close the stream."""
        try:
            request = await _receive_message(stream)
            if not isinstance(request, messages.FetchFile):
                raise ProtocolError(f"{stream.peer} sent {type(request).__name__} for a file")
            path = self._paths.get(request.file)
            if path is None:
                answer = messages.FileMissing(request.request, "no such file is kept here")
                await stream.send_all(encode(answer))
                return
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                await stream.send_all(encode(messages.FileFollows(request.request, size)))
                while data := file.read(CHUNK):
                    await stream.send_all(data)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.aclose()


async def _receive_message(stream: seams.ByteStream) -> messages.Message:
    """One message and not a byte more."""
    header = await _receive_exactly(stream, FRAME_HEADER.size)
    length, kind = FRAME_HEADER.unpack(header)
    if length > REQUEST_LIMIT:
        raise ProtocolError(f"{stream.peer} announces a request of {length} bytes")
    return decode(kind, await _receive_exactly(stream, length), stream.peer)


async def _receive_exactly(stream: seams.ByteStream, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = await stream.receive_into(view)
        if not count:
            raise ConnectionLost(f"{stream.peer} closed the connection")
        view = view[count:]
    return bytes(buffer)
