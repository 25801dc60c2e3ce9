"""Names of hosts: looked up once each, and on no thread that others wait for.

A look-up may take seconds. What runs on a cluster's own thread asks `known_address`, which looks
nothing up.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from attrs import define, field

from dispy_trio.logs import log

__all__ = ["HostNames", "host_names"]


@define(eq=False)
class HostNames:
    """Names and their IP addresses."""

    getaddrinfo: Callable[..., Any] = socket.getaddrinfo
    """As the one of `socket`; slow."""
    _known: dict[str, str] = field(factory=dict)

    def known_address(self, host: str) -> str | None:
        """The address of a host that is one itself, or was looked up; None of all others."""
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return self._known.get(host)
        return host

    def look_up(self, host: str) -> str | None:
        """An address of a host, the IPv4 one if it has both; None when its name has none."""
        if (known := self.known_address(host)) is not None:
            return known
        try:
            found = self.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            log.warning("node %r does not resolve: %s", host, reason)
            return None
        found.sort(key=lambda info: info[0] is not socket.AF_INET)
        self._known[host] = str(found[0][4][0])
        return self._known[host]


host_names = HostNames()
"""Those of this program."""
