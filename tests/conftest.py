"""Fixtures: a configuration with one station, events, and a real uWSGI."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import (
    CLUSTER,
    PASSWORD,
    RECORDINGS,
    STATION,
    Server,
    start_uwsgi,
    stop,
)


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
def make_config(tmp_path: Path, data_dir: Path) -> Callable[..., Path]:
    """Write a configuration; keyword arguments are `[Section] key = value`."""

    def make(**sections: dict[str, object]) -> Path:
        stations = tmp_path / 'station_list.csv'
        stations.write_text(f'{STATION}, {CLUSTER}, {PASSWORD}\n')
        content: dict[str, dict[str, object]] = {
            'General': {
                'log': tmp_path / 'log' / 'hisparc',
                'loglevel': 'debug',
                'station_list': stations,
                'data_dir': data_dir,
            },
            'Suspicion': {'earliest': '2016-01-01'},
        }
        for name, keys in sections.items():
            content.setdefault(name, {}).update(keys)
        lines = []
        for name, keys in content.items():
            lines.append(f'[{name}]')
            lines += [f'{k} = {v}' for k, v in keys.items() if v is not None]
        path = tmp_path / 'config.ini'
        path.write_text('\n'.join(lines) + '\n')
        return path

    return make


@pytest.fixture
def configfile(make_config: Callable[..., Path]) -> Path:
    """A configuration with one station, that takes events since 2016."""
    return make_config()


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
