"""What tests share that is not a fixture: real servers, and readers of files."""

import os
import pickle
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from datastore.spool import Spool

PROJECT = Path(__file__).parents[1]
STATION, CLUSTER, PASSWORD = 510, 'Science Park', 'a secret'
GROUP = f'/hisparc/cluster_science park/station_{STATION}'

NOBODY = 65534  # a user who owns nothing

# Uploads of real stations, which are not part of the project.
RECORDINGS = PROJECT.parent / 'shared' / 'data' / 'uploads'


def write_config(directory: Path, **sections: dict[str, object]) -> Path:
    """Write a configuration with one station, that takes events since 2016.

    Keyword arguments are sections: dicts of keys to add or replace, or to
    leave out where the value is None.
    """
    stations = directory / 'station_list.csv'
    stations.write_text(f'{STATION}, {CLUSTER}, {PASSWORD}\n')
    content: dict[str, dict[str, object]] = {
        'General': {
            'log': directory / 'log' / 'hisparc',
            'loglevel': 'debug',
            'station_list': stations,
            'data_dir': directory / 'data',
            'min_free_space': 'off',
        },
        'Suspicion': {'earliest': '2016-01-01'},
    }
    for name, keys in sections.items():
        content.setdefault(name, {}).update(keys)
    lines = []
    for name, keys in content.items():
        lines.append(f'[{name}]')
        lines += [f'{key} = {text}' for key, text in keys.items() if text is not None]
    path = directory / 'config.ini'
    path.write_text('\n'.join(lines) + '\n')
    return path


def read_with_pytables(path: Path) -> dict[str, Any]:
    """Return what PyTables finds in a file, by path of the leaf.

    A table is a numpy array; a VLArray a list of bytes; anything else fails.
    In a process of its own: h5py and PyTables may not share one.
    """
    script = Path(__file__).with_name('pytables_dump.py')
    result = subprocess.run(
        [sys.executable, script, path], stdout=subprocess.PIPE, check=True
    )
    return pickle.loads(result.stdout)


def run_writer(configfile: Path) -> subprocess.CompletedProcess[str]:
    """Run the writer as a program, for one sweep."""
    return subprocess.run(
        [sys.executable, '-m', 'writer', '--config', configfile, '--once'],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def waiting_in(data_dir: Path) -> list[str]:
    """Return the names of the batches that wait for the writer, sorted."""
    return sorted(chain.from_iterable(Spool(data_dir).pending().values()))


class Crash(BaseException):
    """The process is gone."""


def crash(*_: object) -> None:
    raise Crash


class Clock:
    """A clock that moves when it is told to."""

    now = 0.0  # s

    def __call__(self) -> float:
        return self.now


def samples_in(page: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a page for Prometheus, by name and labels' values."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@dataclass
class Server:
    """A real uWSGI that runs `examples/application.wsgi`."""

    url: str
    configfile: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def workers(self) -> list[int]:
        """The processes of the workers that were started first."""
        said = self.log.read_text()
        return [int(pid) for pid in re.findall(r'spawned .*\(pid: (\d+), cores', said)]

    @property
    def data_dir(self) -> Path:
        return self.configfile.parent / 'data'


def start_uwsgi(
    configfile: Path,
    application: str | None = None,
    *,
    arguments: Sequence[str] = (),
    **settings: object,
) -> Server:
    """Start uWSGI as `examples/` deploys it, on a port that uWSGI chooses.

    `application` is the text of another application.wsgi; `arguments` are more
    for its command line; `settings` are values for settings that uwsgi.ini has.
    """
    directory = configfile.parent
    examples = PROJECT / 'examples'
    text = (examples / 'uwsgi.ini').read_text()
    settings |= {'http-socket': '127.0.0.1:0'}
    for name, value in settings.items():
        text, found = re.subn(f'(?m)^{name} = .*$', f'{name} = {value}', text)
        assert found == 1, name
    ini = directory / 'uwsgi.ini'
    ini.write_text(text)
    (directory / 'application.wsgi').write_text(
        application or (examples / 'application.wsgi').read_text()
    )
    log = directory / 'uwsgi.log'
    with log.open('wb') as file:
        process = subprocess.Popen(
            [f'{sysconfig.get_path("scripts")}/uwsgi', '--ini', ini, *arguments],
            env=os.environ | {'DATASTORE_CONFIG': str(configfile)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    started = time.monotonic()
    while True:
        said = log.read_text()
        port = re.search(r'bound to TCP address 127\.0\.0\.1:(\d+)', said)
        if port and 'spawned uWSGI worker 2' in said:
            return Server(f'http://127.0.0.1:{port[1]}/', configfile, process, log)
        if process.poll() is not None or time.monotonic() - started > 30:
            stop(process)
            raise RuntimeError(f'uWSGI did not start:\n{said}')
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def events_of(series: Iterable[Any]) -> list[Any]:
    """Return the events of these series, in the order in which they came."""
    from datastore.event import Event

    events = {
        place: Event(one.event_type, *row[:3], one.codes, row[3:])
        for one in series
        for place, row in zip(one.places, one.rows(), strict=True)
    }
    return [events[place] for place in range(len(events))]


def event_digests(events: Sequence[Any]) -> list[bytes]:
    """Return the digest of each event, as the writer makes it from a batch."""
    from datastore.batch import Batch, decode_identified, encode_batch
    from writer.digests import digests_of

    content = encode_batch(Batch(STATION, CLUSTER, 0, tuple(events)))
    _, identities = decode_identified(content)
    return digests_of(identities)


class DayFiles:
    """Day files of stations, written as the writer does."""

    def __init__(self, data_dir: Path) -> None:
        from writer.storage import Archive

        for name in ('tmp', 'incoming', 'rejected'):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        self.archive = Archive(data_dir, lambda names: None)

    def store(self, station: int, *events: Any, cluster: str = CLUSTER) -> Path:
        """Append events, all of the same day, to a station's file; return it."""
        from writer.rows import rows_and_blobs

        day = events[0].timestamp // 86400
        tables = rows_and_blobs(events).tables
        digests = event_digests(events)
        known = self.archive.digests(station, day)
        self.archive.append(station, cluster, day, tables, digests, known, [])
        return self.archive.path(station, day)
