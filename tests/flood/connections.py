"""Attacks by connections: too many, too slow, too large, never finished, never read."""

import socket
import struct
import time
from contextlib import suppress

from tests.flood.attacks import HOST, POST, Attack, Crowd, Sent, until

SETTLE_S = 30.0  # for the server to close connections: much longer than its timeouts, as the machine may be slow
DRIP_S = 3.0  # during which slow clients go on after others have stopped: longer than the timeouts in `SETTINGS`


def nothing(port: int, seconds: float) -> Sent:
    """No attack, for comparison."""
    time.sleep(seconds)
    return Sent()


def idle(port: int, seconds: float) -> Sent:
    """2,000 connections that send nothing, and are opened again when they are closed."""
    return _hold(Crowd(port, 2000), seconds)


def slow_head(port: int, seconds: float) -> Sent:
    """500 heads that are sent at one byte per tenth of a second."""
    return _trickle(Crowd(port, 500, POST), seconds, b"a")


def slow_body(port: int, seconds: float) -> Sent:
    """500 bodies that are sent at one byte per tenth of a second."""
    return _trickle(Crowd(port, 500, POST + b"content-length: 1000\r\n\r\n"), seconds, b" ")


def huge_head(port: int, seconds: float) -> Sent:
    """Heads of 8 MB in headers of 50 bytes."""
    return _hold(Crowd(port, 20, b"GET / HTTP/1.1\r\n" + (b"name: " + b"a" * 42 + b"\r\n") * 160_000), seconds)


def many_headers(port: int, seconds: float) -> Sent:
    """Heads of 60 KiB with many headers."""
    return _hold(Crowd(port, 20, b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 15_000 + b"\r\n"), seconds)


def endless_url(port: int, seconds: float) -> Sent:
    """URLs of 8 MB."""
    return _hold(Crowd(port, 20, b"GET /" + b"a" * 8_000_000), seconds)


def unfinished_bodies(port: int, seconds: float) -> Sent:
    """200 bodies of 2 MiB, as large as they may be, without their last byte."""
    size = 2 * 2**20
    return _hold(Crowd(port, 200, POST + b"content-length: %d\r\n\r\n" % size + b" " * (size - 1)), seconds)


def too_large_bodies(port: int, seconds: float) -> Sent:
    """200 bodies of 4 MiB, which are sent in spite of the response."""
    size = 4 * 2**20
    return _hold(Crowd(port, 200, POST + b"content-length: %d\r\n\r\n" % size + b" " * size), seconds)


def tiny_chunks(port: int, seconds: float) -> Sent:
    """Bodies in chunks of one byte."""
    return _hold(Crowd(port, 20, POST + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 100_000), seconds)


def rejected_bodies(port: int, seconds: float) -> Sent:
    """300 heads at once, more than the queue has room for. Bodies follow the responses, half of them complete."""
    crowd, ongoing, done = Crowd(port, 300, POST + b"content-length: 9\r\n\r\n"), until(seconds), set[socket.socket]()
    while ongoing():
        crowd.fill(300)
        crowd.step()
        for i, (opened, answer) in enumerate(crowd.received.items()):
            if answer and opened not in done:
                done.add(opened)
                crowd.send(opened, b"         " if i % 2 else b"    ")
    return crowd.finish(SETTLE_S)


def pipelining(port: int, seconds: float) -> Sent:
    """20 connections that repeatedly send 1,500 requests in one write."""
    return _hold(Crowd(port, 20, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 1500), seconds)


def unread_answers(port: int, seconds: float) -> Sent:
    """100 connections that repeatedly request the largest responses, and read none."""
    request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
    crowd, ongoing = Crowd(port, 100, request * 8, buffer=4096), until(seconds)
    while ongoing():
        crowd.fill()
        crowd.step(read=False)
        for opened in list(crowd.unsent):
            crowd.send(opened, request * 8)
        time.sleep(0.1)
    return crowd.finish(SETTLE_S)


def churn(port: int, seconds: float) -> Sent:
    """Connections that are opened and reset as fast as one process can, half of them after a request."""
    sent, ongoing = Sent(), until(seconds)
    request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    while ongoing():
        with suppress(OSError), socket.create_connection((HOST, port), 5) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if sent.connections % 2:
                opened.sendall(request)
                sent.size += len(request)
        sent.connections += 1
    return sent


def _hold(crowd: Crowd, seconds: float) -> Sent:
    ongoing = until(seconds)
    while ongoing():
        crowd.fill()
        crowd.step()
    return crowd.finish(SETTLE_S)


def _trickle(crowd: Crowd, seconds: float, drop: bytes) -> Sent:
    ongoing, following = until(seconds + DRIP_S), until(seconds)
    while ongoing():
        if following():
            crowd.fill()
        crowd.step()
        for opened in list(crowd.unsent):
            crowd.send(opened, drop)
        time.sleep(0.09)
    return crowd.finish(SETTLE_S)


ATTACKS = [
    Attack("no attack", nothing),
    Attack("idle connections", idle),
    Attack("slow head", slow_head),
    Attack("slow body", slow_body),
    Attack("huge head", huge_head),
    Attack("many headers", many_headers),
    Attack("endless URL", endless_url),
    Attack("unfinished bodies", unfinished_bodies),
    Attack("too large bodies", too_large_bodies),
    Attack("tiny chunks", tiny_chunks),
    Attack("rejected-at-head bodies", rejected_bodies),
    Attack("pipelining", pipelining),
    Attack("unread answers", unread_answers),
    Attack("connection churn", churn),
]
