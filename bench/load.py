"""Sends distinct uploads to a server, eight at a time, and times each answer.

Threads of this process on plain sockets: the requests are made beforehand, and
sending and waiting leave the processor to the server.
"""

import socket
import threading
import time
from typing import NamedTuple

SENDERS = 8

_HEADER = (
    b'POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
    b'Content-Type: application/x-www-form-urlencoded\r\n'
    b'Content-Length: %d\r\n\r\n'
)


class Load(NamedTuple):
    """What came of sending: answers a second, latencies in ms, and other answers."""

    per_second: float
    median: float
    p99: float
    refused: int


def send(port: int, bodies: list[bytes]) -> Load:
    """POST every body once; `refused` counts the answers that are not `100`."""
    requests = [_HEADER % len(body) + body for body in bodies]
    latencies: list[float] = []
    refused: list[bytes] = []
    remaining = iter(requests)
    lock = threading.Lock()

    def sender() -> None:
        while True:
            with lock:
                request = next(remaining, None)
            if request is None:
                return
            started = time.perf_counter()
            answer = _post(port, request)
            latencies.append((time.perf_counter() - started) * 1000)
            if not answer.endswith(b'\r\n\r\n100'):
                refused.append(answer)

    threads = [threading.Thread(target=sender) for _ in range(SENDERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    latencies.sort()
    return Load(
        per_second=len(bodies) / seconds,
        median=latencies[len(latencies) // 2],
        p99=latencies[len(latencies) * 99 // 100],
        refused=len(refused),
    )


def _post(port: int, request: bytes) -> bytes:
    with socket.create_connection(('127.0.0.1', port)) as connection:
        connection.sendall(request)
        answer = b''
        while piece := connection.recv(4096):
            answer += piece
    return answer
