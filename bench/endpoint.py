"""How many uploads a second uWSGI takes, beside a callable that only reads them."""

import re
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

from bench.archive import stored
from bench.load import Load, send
from bench.uploads import CLUSTER, PASSWORD, STATION

_SETTINGS = Path(__file__).parents[1] / 'examples' / 'uwsgi.ini'

_BARE = """\
def application(environ, start_response):
    environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'100']
"""
_OURS = """\
import functools
from wsgi import wsgi_app
application = functools.partial(wsgi_app.application, configfile={!r})
"""


class Measured(NamedTuple):
    """Medians over the rounds; `peak` is a worker's resident memory, in MB."""

    ours: Load
    bare: Load
    peak: float


def configure(directory: Path, stations: int = 1) -> Path:
    """Write a configuration for the uploads of the benchmark and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    listed = directory / 'station_list.csv'
    lines = [f'{STATION + n}, {CLUSTER}, {PASSWORD}\n' for n in range(stations)]
    listed.write_text(''.join(lines))
    path = directory / 'config.ini'
    path.write_text(
        f'[General]\nlog = {directory}/log\nstation_list = {listed}\n'
        f'data_dir = {directory}/data\nmin_free_space = off\n'
        '[Suspicion]\nearliest = 2016-01-01\n'
    )
    return path


def measure(directory: Path, rounds: list[list[bytes]], events: int) -> Measured:
    """Send each list of bodies, of so many events each, to both callables in turn.

    Each round is swept before the next, as the spool is not filled for the first
    time, except in the first.  Raises RuntimeError if an upload is not answered
    100, or its events are not stored.
    """
    configfile = configure(directory)
    ours = _Server(directory / 'ours', _OURS.format(str(configfile)))
    bare = _Server(directory / 'bare', _BARE)
    sweep = [sys.executable, '-m', 'writer', '--config', str(configfile), '--once']
    loads: dict[str, list[Load]] = {'ours': [], 'bare': []}
    try:
        for bodies in rounds:
            loads['bare'].append(send(bare.port, bodies))
            loads['ours'].append(send(ours.port, bodies))
            subprocess.run(sweep, check=True)
        peak = ours.peak()
    finally:
        ours.stop()
        bare.stop()
    refused = sum(load.refused for load in loads['ours'])
    sent, kept = events * sum(map(len, rounds)), stored(directory / 'data')
    if refused or kept != sent:
        raise RuntimeError(f'{refused} uploads refused; {kept} of {sent} events stored')
    return Measured(_median(loads['ours']), _median(loads['bare']), peak)


def _median(loads: list[Load]) -> Load:
    return Load(*(statistics.median(values) for values in zip(*loads, strict=True)))


class _Server:
    """uWSGI as it is deployed, on a port of its own choice."""

    def __init__(self, directory: Path, application: str) -> None:
        directory.mkdir(parents=True)
        (directory / 'application.wsgi').write_text(application)
        settings = _SETTINGS.read_text()
        settings = re.sub(
            '(?m)^http-socket = .*', 'http-socket = 127.0.0.1:0', settings
        )
        (directory / 'uwsgi.ini').write_text(settings)
        self._log = directory / 'uwsgi.log'
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(
                [f'{sysconfig.get_path("scripts")}/uwsgi', 'uwsgi.ini'],
                cwd=directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        while 'spawned uWSGI worker 2' not in self._log.read_text():
            if self._process.poll() is not None:
                raise RuntimeError(f'uWSGI did not start: {self._log.read_text()}')
            time.sleep(0.02)
        match = re.search(r'TCP address 127\.0\.0\.1:(\d+)', self._log.read_text())
        assert match
        self.port = int(match[1])

    def peak(self) -> float:
        """Return the most memory that a worker had resident, in MB."""
        said = self._log.read_text()
        workers = re.findall(r'spawned uWSGI worker \d+ \(pid: (\d+)', said)
        peaks = []
        for worker in workers:
            status = Path(f'/proc/{worker}/status').read_text()
            match = re.search(r'VmHWM:\s+(\d+) kB', status)
            assert match
            peaks.append(int(match[1]) / 1024)
        return max(peaks)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
