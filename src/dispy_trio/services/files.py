"""The files of a node: those that clients put there, those that jobs leave in its keeping or send
away, and those it fetches from other nodes.

A kept file is known by 32 hex digits that nobody can guess: to know them is to be allowed to read
it. It lives as long as the computation whose job gave it away. A job that wants one asks its own
node, which has it here or fetches it from the node that keeps it: the worker process itself holds
no secret and opens no connection.

Files travel over authenticated connections of their own: requests and answers, with bytes between.
The content of a file is sent once to a node: what is here already, under whatever name, is copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from dispy_trio import messages, seams
from dispy_trio.errors import ProtocolError, RemoteError
from dispy_trio.protocol.auth import Hello, Kind, Role
from dispy_trio.protocol.codec import encode
from dispy_trio.runtime.net import local_address_towards
from dispy_trio.runtime.peer import dial_connection
from dispy_trio.runtime.transfer import (
    holds,
    receive_file,
    receive_message,
    safe_path,
    send_file,
)
from dispy_trio.services.outside import Outside
from dispy_trio.services.places import Key, Place, Places

__all__ = ["FileService"]

FILE_ANSWER_LIMIT = 2000
"""Characters of an error text."""


@define(eq=False)
class _Offer:
    """A file on its way to a client."""

    answered: trio.Event = field(factory=trio.Event)
    text: str = ""
    moved: float = 0.0
    """When a part of it was sent last."""


@define(eq=False)
class FileService:
    """All files of one node."""

    outside: Outside
    identity: str
    """Of this node, for its own requests."""
    host: str
    """The address we listen on."""
    port: int
    places: Places
    max_size: int = 0
    """Bytes of one file; 0 for no limit."""
    _paths: dict[str, Path] = field(factory=dict)
    _owners: dict[Key, list[str]] = field(factory=dict)
    _fetched: dict[tuple[Key, str], Path] = field(factory=dict)
    _fetching: dict[tuple[Key, str], trio.Lock] = field(factory=dict)
    _contents: dict[str, Path] = field(factory=dict)
    """Digest to a file that had that content when it was put here."""
    _storing: dict[str, trio.Lock] = field(factory=dict)
    """Digest to a lock, while files with that content come in."""
    _offers: dict[int, _Offer] = field(factory=dict)
    _offered: dict[str, _Offer] = field(factory=dict)

    # --- what jobs ask -------------------------------------------------------------------------
    async def answer(
        self, owner: Key, client: str, directory: str, kind: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        """Answer a call of a running job.

        Args:
            owner: its computation.
            client: address of the client; other nodes find us where it does.
            directory: of the computation.
            kind: what it asks.
            body: with what.

        Raises:
            DispyError: what is wrong with the request; for the job to hear.
        """
        match kind, body:
            case "keep_file", {"path": str(path)}:
                token, size = self._keep(owner, directory, path)
                address = f"{self.host_for(client)}:{self.port}"
                return {"address": address, "file": token, "size": size}
            case "fetch_file", {"address": str(address), "file": str(token), "size": int(size)}:
                return {"path": str(await self._fetch(owner, directory, address, token, size))}
            case _:
                raise RemoteError(f"a node has no {kind!r} for jobs, or not with {sorted(body)}")

    def host_for(self, client: str) -> str:
        """The address at which a client finds us."""
        if self.host in ("0.0.0.0", "::"):
            return local_address_towards(client)
        return self.host

    def _keep(self, owner: Key, directory: str, path: str) -> tuple[str, int]:
        source = self._own_file(directory, path)
        token = self.outside.draw_token(32)
        target = self._room(directory, token)
        os.rename(source, target)
        self._paths[token] = target
        self._owners.setdefault(owner, []).append(token)
        return token, target.stat().st_size

    def _own_file(self, directory: str, path: str) -> Path:
        """A file that a job names.

        Raises:
            RemoteError: it is none, lies elsewhere, or is too large.
        """
        source = Path(directory, path).resolve()
        if not source.is_relative_to(Path(directory).resolve()):
            raise RemoteError(f"{path!r} lies outside of the job's directory {directory}")
        if not source.is_file():
            raise RemoteError(f"{path!r} is not a file")
        self._check_size(path, source.stat().st_size)
        return source

    def _check_size(self, path: str, size: int) -> None:
        if self.max_size and size > self.max_size:
            raise RemoteError(
                f"{path!r} has {size} bytes, more than the {self.max_size} that this node allows"
                " (--max-file-size)"
            )

    @staticmethod
    def _room(directory: str, token: str) -> Path:
        kept = Path(directory, ".kept")
        kept.mkdir(mode=0o700, exist_ok=True)
        return kept / token

    async def _fetch(self, owner: Key, directory: str, address: str, token: str, size: int) -> Path:
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

    def forget(self, owner: Key) -> None:
        """The owner's directory is going, and its files with it."""
        for token in self._owners.pop(owner, ()):
            del self._paths[token]
        for key in [key for key in self._fetched if key[0] == owner]:
            del self._fetched[key]
        for key in [key for key in self._fetching if key[0] == owner]:
            del self._fetching[key]

    # --- from a job to its client --------------------------------------------------------------
    async def offer(
        self,
        send: Callable[[messages.Message], None],
        place: Place,
        job: int,
        path: str,
        timeout: float,
    ) -> None:
        """Have the client fetch a file of a job, and wait until it is safe there.

        Args:
            send: sends a message to the client.
            place: of the computation.
            job: number of the job.
            path: absolute path of the file.
            timeout: seconds in which some part of it has to move.

        Raises:
            RemoteError: why the client does not have it.
        """
        source = self._own_file(place.directory, path)
        name = _name_for_client(place, job, path, source)
        status = source.stat()
        token = self.outside.draw_token(32)
        # Nobody but that client can answer it.
        request = int(token[:14], 16)
        offer = self._offers[request] = self._offered[token] = _Offer(moved=trio.current_time())
        self._paths[token] = source
        try:
            send(
                messages.FileOffered(
                    request,
                    token,
                    name,
                    status.st_size,
                    status.st_mode & 0o777,
                    status.st_mtime,
                )
            )
            while not offer.answered.is_set():
                with trio.move_on_at(offer.moved + timeout):
                    await offer.answered.wait()
                if not offer.answered.is_set() and trio.current_time() >= offer.moved + timeout:
                    raise RemoteError(f"the client did not take {path!r} within {timeout:g} s")
            if offer.text:
                raise RemoteError(f"the client did not take {path!r}: {offer.text}")
        finally:
            del self._offers[request], self._offered[token], self._paths[token]

    def answered(self, message: messages.FileAnswer) -> None:
        """A client tells what became of a file."""
        if (offer := self._offers.get(message.request)) is not None:
            offer.text = message.text
            offer.answered.set()

    # --- between nodes -------------------------------------------------------------------------
    async def _download(self, address: str, token: str, size: int, target: Path) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            raise RemoteError(f"{address!r} is no address of a node")
        hello = self.outside.hello(Role.NODE, Kind.FILE, self.identity)
        stream, _ = await dial_connection(
            self.outside.net, host.strip("[]"), int(port), self.outside.secret.value, hello
        )
        try:
            await stream.send_all(encode(messages.FetchFile(1, token)))
            answer = await receive_message(stream)
            if isinstance(answer, messages.FileMissing):
                raise RemoteError(f"node {address}: {answer.text}")
            if not isinstance(answer, messages.FileFollows) or answer.size != size:
                raise ProtocolError(f"node {address} does not have the file that was promised")
            await receive_file(stream, target, size)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.aclose()

    # --- connections for files -----------------------------------------------------------------
    async def serve(self, stream: seams.ByteStream, theirs: Hello, known: bool) -> None:
        """Answer requests until the other end closes.

        Args:
            stream: an authenticated connection.
            theirs: what the other end said of itself.
            known: it is a client that has a session here.
        """
        try:
            while (request := await receive_message(stream)) is not None:
                if isinstance(request, messages.FetchFile):
                    await self._give(stream, request)
                elif isinstance(request, messages.PutFile) and known:
                    await self._take(stream, request, theirs.identity)
                else:
                    raise ProtocolError(f"{stream.peer} sent {type(request).__name__} for a file")
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.aclose()

    async def _give(self, stream: seams.ByteStream, request: messages.FetchFile) -> None:
        path = self._paths.get(request.file)
        if path is None:
            answer = messages.FileMissing(request.request, "no such file is kept here")
            await stream.send_all(encode(answer))
            return
        size = path.stat().st_size
        await stream.send_all(encode(messages.FileFollows(request.request, size)))
        offer = self._offered.get(request.file) or _Offer()

        def moved() -> None:
            offer.moved = trio.current_time()

        await send_file(stream, path, size, moved)

    async def _take(self, stream: seams.ByteStream, put: messages.PutFile, session: str) -> None:
        """A client has a file for one of its computations."""
        answer: messages.Message
        try:
            target = self._target(put, (session, put.computation), stream.peer)
            # The same content for two computations at once: the second waits, and copies.
            lock = self._storing.setdefault(put.digest, trio.Lock())
            async with lock:
                await self._store(stream, put, target)
                if not lock.statistics().tasks_waiting:
                    self._storing.pop(put.digest, None)
            answer = messages.FileStored(put.request)
        except (RemoteError, ProtocolError, OSError) as exc:
            answer = messages.FileMissing(put.request, str(exc)[:FILE_ANSWER_LIMIT])
        await stream.send_all(encode(answer))

    def _target(self, put: messages.PutFile, key: Key, peer: str) -> Path:
        self._check_size(put.path, put.size)
        place = self.places.open(key, peer.rpartition(":")[0], put.dest_path)
        if put.job:
            return place.path_for_job(put.job, put.path)
        return safe_path(place.directory, put.path)

    async def _store(self, stream: seams.ByteStream, put: messages.PutFile, target: Path) -> None:
        if await trio.to_thread.run_sync(holds, target, put.size, put.digest):
            self._contents[put.digest] = target
            return
        same = self._contents.get(put.digest)
        if same is not None and await trio.to_thread.run_sync(_copy, same, target, put):
            return
        await stream.send_all(encode(messages.FileWanted(put.request)))
        await receive_file(
            stream,
            target,
            put.size,
            digest=put.digest,
            mode=put.mode,
            modified=put.modified,
        )
        self._contents[put.digest] = target


def _name_for_client(place: Place, job: int, path: str, source: Path) -> str:
    """A file's path relative to the directory of its job, or else of the computation."""
    for base in (place.jobs.get(job), place.directory):
        if base is not None and Path(path).is_relative_to(base):
            return str(Path(path).relative_to(base))
    return str(source.relative_to(os.path.realpath(place.directory)))


def _copy(source: Path, target: Path, put: messages.PutFile) -> bool:
    """Copy a file that had the content that is wanted; False when it has not any more."""
    if not holds(source, put.size, put.digest):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.{put.digest[:8]}.part")
    try:
        shutil.copyfile(source, part)
        part.chmod(put.mode & 0o777 | 0o600)
        os.utime(part, (put.modified, put.modified))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return True
