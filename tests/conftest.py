"""Fixtures: a configuration with one station, events, and a real uWSGI."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import (
    RECORDINGS,
    Clock,
    DayFiles,
    Server,
    start_uwsgi,
    stop,
    write_config,
)

from datastore import cli
from datastore.spool import Spool
from datastore.suspicious import Suspicious


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, saying so, what needs recordings of real stations."""
    if not RECORDINGS.is_dir():
        skip = pytest.mark.skip(reason=f'no recorded uploads in {RECORDINGS}')
        for item in items:
            if 'recording' in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / 'data'


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user can look into, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration into tmp_path; keywords as for `write_config`."""
    return partial(write_config, tmp_path)


@pytest.fixture
def configfile(make_config: Callable[..., Path]) -> Path:
    """A configuration with one station, that takes events since 2016."""
    return make_config()


@pytest.fixture(scope='module')
def module_configfile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `configfile`, for servers that the tests of one module share."""
    return write_config(tmp_path_factory.mktemp('module'))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(data_dir: Path) -> Spool:
    return Spool(data_dir)


@pytest.fixture
def incoming(spool: Spool, data_dir: Path) -> Path:
    return data_dir / 'incoming'


@pytest.fixture
def rejected(spool: Spool, data_dir: Path) -> Path:
    return data_dir / 'rejected'


@pytest.fixture
def suspicious(data_dir: Path) -> Suspicious:
    return Suspicious(data_dir)


@pytest.fixture
def fsynced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Any]]:
    """What has been fsynced, in order; a directory as the names it held."""
    fsync = os.fsync
    fsynced: list[tuple[Path, Any]] = []

    def record(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f'/proc/self/fd/{descriptor}'))
        held: Any = sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()
        fsynced.append((path, held))

    monkeypatch.setattr(os, 'fsync', record)
    return fsynced


@pytest.fixture
def files(data_dir: Path) -> DayFiles:
    return DayFiles(data_dir)


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No configuration is known yet, as in a process that has just started."""
    from wsgi import wsgi_app

    monkeypatch.setattr(wsgi_app, '_endpoints', {})
    monkeypatch.setattr(wsgi_app, '_current', None)
    yield
    for endpoint in wsgi_app._endpoints.values():
        endpoint.outcomes.close()
        endpoint.spool.close()
        for handler in endpoint.logger.handlers[:]:
            endpoint.logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def run_command(
    configfile: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command of `datastore`; return its exit status and what it said."""

    def run_command(name: str, *arguments: object) -> tuple[int, str, str]:
        command = [name, *map(str, arguments), '--config', str(configfile)]
        status = cli.main(command)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run_command


@pytest.fixture
def run_json(run: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    """Have `run` print JSON; return the exit status and the document."""

    def run_json(*arguments: object) -> tuple[int, Any]:
        status, out, _ = run(*arguments, '--json')
        return status, json.loads(out)

    return run_json


@pytest.fixture
def make_event() -> Callable[..., dict[str, Any]]:
    """Make an event as a station uploads it; keywords are its upload codes."""

    def make(
        event_type: str = 'CIC',
        moment: datetime = datetime(2020, 2, 3, 4, 5, 6),
        nanoseconds: int = 7,
        **values: object,
    ) -> dict[str, Any]:
        return {
            'header': {
                'eventtype_uploadcode': event_type,
                'datetime': moment,
                'nanoseconds': nanoseconds,
            },
            'datalist': [
                {'data_uploadcode': code, 'data': value}
                for code, value in values.items()
            ],
        }

    return make


@pytest.fixture
def uwsgi(configfile: Path) -> Iterator[Server]:
    """A real uWSGI on the configuration of this test."""
    server = start_uwsgi(configfile)
    yield server
    stop(server.process)
