"""The real `Net`: TCP, and TLS 1.3 on it whenever the connection leaves the loopback interface.

Whether it does is told by the address that was dialled, which is the dialler's remote and the
listener's local one: both see the same and need not agree on anything.

The listener's certificate is made when it starts to listen and is signed by nobody. Its hash is
part of the handshake's transcript, so whoever puts himself between the two, with a certificate of
his own, fails the proof of the secret: a shared secret gives encryption without any set-up.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import ipaddress
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType

import trio
from attrs import define

from dispy_trio.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    LocalError,
    PortInUse,
)
from dispy_trio.seams import ByteStream

__all__ = ["TcpNet", "is_loopback", "local_address_towards"]

log = logging.getLogger("dispy_trio.node")

SOCKET_BUFFER = 4 * 1024 * 1024
USER_TIMEOUT = 30_000
"""Milliseconds after which the kernel gives up on unacknowledged data."""
DIAL_TIMEOUT = 5.0
ACCEPT_PAUSE = 0.1
"""Seconds to wait when no connection can be taken."""
MOST_FAILURES = 100
"""Connections in a row that may fail each for itself; then it is not theirs."""
_OF_ONE_CONNECTION = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)
"""What `accept` hands on of the connection that it took from the queue; see accept(2)."""


def is_loopback(host: str) -> bool:
    """Is this the address of a loopback interface?"""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    # A socket that takes both families shows IPv4 addresses as ::ffff:127.0.0.1.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _text(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tune(sock: trio.socket.SocketType) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
    # To ask for less than the kernel would find out by itself makes it worse.
    if _kernel_limit("wmem_max") >= SOCKET_BUFFER:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    if _kernel_limit("rmem_max") >= SOCKET_BUFFER:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)


@cache
def _kernel_limit(name: str) -> int:
    """Bytes that a socket's buffer may be given; 0 where the system does not tell."""
    try:
        return int(Path("/proc/sys/net/core", name).read_text())
    except OSError:
        return 0


@define(eq=False)
class TcpStream:
    """A plain TCP connection."""

    _socket: trio.socket.SocketType
    peer: str
    secure: bytes = b""

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Hand over what the kernel takes at once."""
        # The socket is non-blocking beneath Trio's wrapper: this is one system call.
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise ConnectionLost(f"{self.peer}: {exc.strerror or exc}") from exc

    def receive_nowait(self, buffer: memoryview) -> int | None:
        """Put what is there at the start of `buffer`; None when nothing is, 0 at the end."""
        try:
            return os.readv(self._socket.fileno(), [buffer])
        except BlockingIOError:
            return None
        except OSError:
            return 0  # It broke, which is an end as well.

    @property
    def descriptor(self) -> int | None:
        """The socket."""
        return self._socket.fileno()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        view = memoryview(data)
        try:
            while view:
                view = view[await self._socket.send(view) :]
        except OSError as exc:
            raise ConnectionLost(f"{self.peer}: {exc.strerror or exc}") from exc
        except trio.ClosedResourceError as exc:
            raise ConnectionLost(f"{self.peer}: closed") from exc

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; 0 means the other end closed."""
        try:
            return await self._socket.recv_into(buffer)
        except OSError as exc:
            raise ConnectionLost(f"{self.peer}: {exc.strerror or exc}") from exc
        except trio.ClosedResourceError as exc:
            raise ConnectionLost(f"{self.peer}: closed") from exc

    async def aclose(self) -> None:
        """Close at once."""
        self._socket.close()
        await trio.lowlevel.cancel_shielded_checkpoint()


@define(eq=False)
class TlsStream:
    """TLS over a TCP connection."""

    _stream: trio.SSLStream[trio.SocketStream]
    peer: str
    secure: bytes
    _closed: bool = False
    _calls: int = 0
    """Of the stream, that have not returned."""

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Takes nothing: encryption may have to wait for the other side."""
        return 0

    def receive_nowait(self, buffer: memoryview) -> int | None:
        """Has nothing, for the same reason."""
        return None

    @property
    def descriptor(self) -> int | None:
        """None: what a socket holds is not yet what the stream holds."""
        return None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        with _Use(self) as stream:
            await stream.send_all(data)

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes; 0 means the other end closed."""
        with _Use(self) as stream:
            data = await stream.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _let_go(self) -> None:
        if self._closed and not self._calls:
            _take_apart(self._stream)

    async def aclose(self) -> None:
        """Close at once, without TLS's own goodbye: ours comes before."""
        if self._closed:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._closed = True
        transport = self._stream.transport_stream
        self._let_go()
        await trio.aclose_forcefully(transport)


def _take_apart(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Free what a stream holds that nobody uses any more.

    It refers to itself, so that the 50 KiB of its connection would stay until somebody looks for
    such circles, which a node seldom does.
    """
    vars(stream).clear()


def _own_context(protocol: int, certfile: Path, keyfile: Path | None) -> ssl.SSLContext:
    """A TLS context with the user's own certificate, that accepts only peers with the same one.

    Raises:
        LocalError: names the file that can't be used.
    """
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    try:
        context.load_cert_chain(certfile, keyfile)
        context.load_verify_locations(certfile)
    except OSError as exc:
        files = f"{certfile}" + (f" and {keyfile}" if keyfile else "")
        raise LocalError(f"can't use the certificate {files}: {exc.strerror or exc}") from exc
    # The very certificate that is shared is trusted, whoever has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _hash_of(certfile: Path) -> bytes:
    """SHA-256 of the first certificate in a PEM file."""
    text = certfile.read_text()
    start = text.index("-----BEGIN CERTIFICATE-----")
    end = text.index("-----END CERTIFICATE-----", start) + len("-----END CERTIFICATE-----")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[start:end])).digest()


def local_address_towards(host: str) -> str:
    """The address of this machine that packets to `host` leave from. Sends none."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))
            address: str = sock.getsockname()[0]
            return address
    except OSError:
        return "127.0.0.1"


def _server_context() -> tuple[ssl.SSLContext, bytes]:
    """A TLS context with a certificate made for it, and the hash of that certificate."""
    # Imported here: costs start-up time that nobody on loopback should pay.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dispy-trio")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Nobody checks the dates: trust comes from the proof of the secret.
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with _as_file(pem) as path:
        context.load_cert_chain(path)
    der = certificate.public_bytes(serialization.Encoding.DER)
    return context, hashlib.sha256(der).digest()


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path to these bytes, for the ssl module, which reads keys from files only."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("dispy-trio", os.MFD_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(data)
        yield f"/proc/self/fd/{descriptor}"


class _Use:
    """One call under way on a TLS stream.

    A class, as what passes through a generator with ``@contextmanager`` is kept in a circle with
    its frames by some versions of Python, and those know the stream.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: TlsStream) -> None:
        self._owner = owner

    def __enter__(self) -> trio.SSLStream[trio.SocketStream]:
        owner = self._owner
        if owner._closed:
            raise ConnectionLost(f"{owner.peer}: closed")
        owner._calls += 1
        return owner._stream

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._owner._calls -= 1
        self._owner._let_go()
        if isinstance(exc, (trio.BrokenResourceError, trio.ClosedResourceError)):
            raise ConnectionLost(f"{self._owner.peer}: {exc.__cause__ or exc}") from exc


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Not unverified: the certificate's hash goes into the handshake, which only a holder of the
    # secret can complete.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@define(eq=False)
class TcpListener:
    """A bound TCP port."""

    _socket: trio.socket.SocketType
    address: tuple[str, int]
    _tls: tuple[ssl.SSLContext, bytes] | None
    """None when only loopback connections can arrive."""
    _force_tls: bool

    async def accept(self) -> ByteStream:
        """Wait for the next connection. Its TLS handshake happens on first use, not here.

        Whatever goes wrong with one connection, or with all of them for a while, is waited out.

        Raises:
            ConnectionLost: the listener is closed.
        """
        failures = 0
        complained = False
        while True:
            try:
                sock, remote = await self._socket.accept()
            except trio.ClosedResourceError as exc:
                raise self._closed() from exc
            except OSError as exc:
                if self._socket.fileno() < 0:
                    raise self._closed() from exc
                failures += 1
                if exc.errno in _OF_ONE_CONNECTION and failures < MOST_FAILURES:
                    await trio.lowlevel.checkpoint()
                    continue
                if not complained:
                    complained = True
                    log.warning(
                        "can't take new connections on %s: %s (retrying); those that are open go on",
                        _text(self.address),
                        _reason(exc),
                    )
                # Out of descriptors, say: let those who have a connection get on and free some.
                await trio.sleep(ACCEPT_PAUSE)
                continue
            try:
                return self._wrap(sock, remote)
            except Exception as exc:
                # Reset since, or no memory for its TLS: nobody else's concern.
                sock.close()
                log.warning("a connection was not taken: %s", _reason(exc))
                await trio.lowlevel.checkpoint()

    def _closed(self) -> ConnectionLost:
        return ConnectionLost(f"the listener on {_text(self.address)} is closed")

    def _wrap(self, sock: trio.socket.SocketType, remote: tuple[str, int]) -> ByteStream:
        _tune(sock)
        peer = _text(remote)
        if self._tls is None or (not self._force_tls and is_loopback(sock.getsockname()[0])):
            return TcpStream(sock, peer)
        context, certificate = self._tls
        stream = trio.SSLStream(trio.SocketStream(sock), context, server_side=True)
        return TlsStream(stream, peer, certificate)

    async def aclose(self) -> None:
        self._socket.close()
        await trio.lowlevel.checkpoint()


@define(eq=False)
class TcpNet:
    """Dials and listens with real sockets."""

    force_tls: bool = False
    """TLS on loopback too, for tests of it."""
    certfile: Path | None = None
    """The user's own certificate, which all peers share; TLS is used everywhere then."""
    keyfile: Path | None = None
    """Its key, if that is not in the same file."""

    def __attrs_post_init__(self) -> None:
        if self.certfile is not None:
            self.force_tls = True

    def check_certificate(self) -> None:
        """See that the user's own certificate can be used, if there is one.

        Raises:
            LocalError: names the file that can't be.
        """
        if self.certfile is not None:
            _own_context(ssl.PROTOCOL_TLS_CLIENT, self.certfile, self.keyfile)

    async def dial(self, host: str, port: int) -> ByteStream:
        """Open a connection, trying all addresses of a host name.

        Raises:
            ConnectError: names the address and the reason.
            AuthenticationError: it has another certificate than we.
        """
        peer = _text((host, port))
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                transport = await trio.open_tcp_stream(host, port)
        except trio.TooSlowError as exc:
            raise ConnectError(f"{peer}: no answer within {DIAL_TIMEOUT:.0f} s") from exc
        except OSError as exc:
            raise ConnectError(f"{peer}: {_reason(exc)}{_advice(host, exc)}") from exc
        except UnicodeError as exc:
            raise ConnectError(f"{peer}: this is no host name") from exc
        try:
            return await self._set_up(transport, peer)
        except BaseException:
            await trio.aclose_forcefully(transport)
            raise

    async def _set_up(self, transport: trio.SocketStream, peer: str) -> ByteStream:
        try:
            _tune(transport.socket)
            remote = transport.socket.getpeername()[0]
        except OSError as exc:
            # Who was reset already has no address any more.
            raise ConnectError(f"{peer}: {_reason(exc)}") from exc
        if is_loopback(remote) and not self.force_tls:
            return TcpStream(transport.socket, peer)
        if self.certfile is not None:
            context = _own_context(ssl.PROTOCOL_TLS_CLIENT, self.certfile, self.keyfile)
        else:
            context = _client_context()
        stream = trio.SSLStream(transport, context)
        completed = False
        try:
            with trio.move_on_after(DIAL_TIMEOUT) as scope:
                await stream.do_handshake()
            if scope.cancelled_caught:
                raise ConnectError(
                    f"{peer}: no TLS answer within {DIAL_TIMEOUT:.0f} s; is this a dispy-trio node?"
                )
            certificate = stream.getpeercert(binary_form=True)
            completed = True
        except trio.BrokenResourceError as exc:
            if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
                raise AuthenticationError(
                    f"{peer} has another certificate than ours: give both sides the same one"
                ) from exc
            raise ConnectError(
                f"{peer}: TLS failed: {exc.__cause__ or exc}; is this a dispy-trio node"
                + (" with a certificate?" if self.certfile else "?")
            ) from exc
        finally:
            if not completed:
                _take_apart(stream)
        return TlsStream(stream, peer, hashlib.sha256(certificate or b"").digest())

    async def listen(self, host: str, port: int) -> TcpListener:
        """Bind one address.

        Raises:
            PortInUse: somebody else listens there.
            LocalError: the address is not one of this machine's.
        """
        try:
            found = await trio.socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except OSError as exc:
            raise LocalError(f"can't listen on {host!r}: {_reason(exc)}") from exc
        except UnicodeError as exc:
            raise LocalError(f"can't listen on {host!r}: this is no host name") from exc
        family, kind, protocol, _, address = found[0]
        sock = trio.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind(address)
            sock.listen(256)
        except OSError as exc:
            sock.close()
            where = _text((host, port))
            if exc.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"{where}: port {port} is taken; choose another with --port (0 for any)"
                ) from exc
            raise LocalError(f"can't listen on {where}: {_reason(exc)}") from exc
        bound = sock.getsockname()[:2]
        tls: tuple[ssl.SSLContext, bytes] | None = None
        if self.certfile is not None:
            context = _own_context(ssl.PROTOCOL_TLS_SERVER, self.certfile, self.keyfile)
            tls = (context, _hash_of(self.certfile))
        elif self.force_tls or not is_loopback(bound[0]):
            tls = _server_context()
        return TcpListener(sock, bound, tls, self.force_tls)


def _advice(host: str, exc: OSError) -> str:
    """What to do about an address that can't be dialled, where that is not plain."""
    if is_loopback(host) and "unreachable" in _reason(exc):
        return "; the loopback interface is down (`ip link set lo up`)"
    return ""


def _reason(exc: BaseException) -> str:
    """Why, in the system's words, without the addresses that Trio adds."""
    if isinstance(exc.__cause__, BaseExceptionGroup):
        return _reason(exc.__cause__.exceptions[0])
    if isinstance(exc.__cause__, OSError):
        return _reason(exc.__cause__)
    if isinstance(exc, OSError) and exc.errno and not isinstance(exc, socket.gaierror):
        return os.strerror(exc.errno)
    return str(getattr(exc, "strerror", None) or exc)
