"""Sockets: the addresses that a server listens on."""

import errno
import socket
import sys
from typing import Any

from musix_runtime.errors import InputError

BUFFER_BYTES = 64 * 1024  # to send and to receive: reading a part of a large body must not delay other requests


def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to every address of `host`, IPv4 or IPv6, that do not listen yet. Raises InputError."""
    bound: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(addresses):
            if bound and port == 0:
                address = (address[0], bound[0].getsockname()[1], *address[2:])
            bound.append(_bound(family, address, both=host == "::"))
    except OSError as error:
        for opened in bound:
            opened.close()
        reason = error.strerror or error
        expected = "an address of this machine" if error.errno == errno.EADDRNOTAVAIL else "a free port to listen on"
        raise InputError(f"{format_address(host, port)}: expected {expected}, found: {reason}") from error
    return bound


def _bound(family: int, address: Any, both: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only = not (both and socket.has_dualstack_ipv6())  # "::" accepts IPv4 as well where the system can
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # accepted sockets inherit it
            opened.setsockopt(socket.SOL_SOCKET, buffer, BUFFER_BYTES)
        opened.bind(address)
        opened.set_inheritable(True)
    except OSError:
        opened.close()
        raise
    return opened


def format_address(host: str, port: int) -> str:
    """Return an address in the form that it has in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
