"""Sends distinct uploads to a server, eight at a time, and times each answer.

With Debian's `wrk` where there is one, else with threads of this process on
plain sockets.  Either way the requests are made beforehand.
"""

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

SENDERS = 8

_PATIENCE = 100  # s until uploads are to be answered
_UNANSWERED = f'not all uploads are answered within {_PATIENCE} s'

_WRK = shutil.which('wrk')
SENDER = 'wrk' if _WRK else 'threads of the benchmark'

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
    """POST every body once; `refused` counts the answers that are not `100`.

    Raises RuntimeError if the server does not answer all of them.
    """
    requests = [_HEADER % len(body) + body for body in bodies]
    return (_send_with_wrk if _WRK else _send_with_threads)(port, requests)


def _send_with_wrk(port: int, requests: list[bytes]) -> Load:
    script = Path(__file__).with_name('wrk.lua')
    with tempfile.TemporaryDirectory(prefix='bench-') as name:
        content, lengths = Path(name, 'requests'), Path(name, 'lengths')
        content.write_bytes(b''.join(requests))
        lengths.write_text(''.join(f'{len(request)}\n' for request in requests))
        command = [str(_WRK), '-t1', f'-c{SENDERS}', f'-d{_PATIENCE}', '--timeout=60']
        command += ['-s', str(script), f'http://127.0.0.1:{port}/']
        command += ['--', str(content), str(lengths)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            assert wrk.stdout is not None
            for line in wrk.stdout:
                if line == 'all are answered\n':
                    wrk.send_signal(signal.SIGINT)
    result = json.loads(line)  # the last one
    if not result['seconds']:
        raise RuntimeError(_UNANSWERED)
    return Load(
        per_second=len(requests) / result['seconds'],
        median=result['median'],
        p99=result['p99'],
        refused=result['refused'],
    )


def _send_with_threads(port: int, requests: list[bytes]) -> Load:
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
    # A thread that is not answered has said why, and ended.
    if len(latencies) < len(requests):
        raise RuntimeError(_UNANSWERED)
    latencies.sort()
    return Load(
        per_second=len(requests) / seconds,
        median=latencies[len(latencies) // 2],
        p99=latencies[len(latencies) * 99 // 100],
        refused=len(refused),
    )


def _post(port: int, request: bytes) -> bytes:
    address = '127.0.0.1', port
    with socket.create_connection(address, timeout=_PATIENCE) as connection:
        connection.sendall(request)
        answer = b''
        while piece := connection.recv(4096):
            answer += piece
    return answer
