"""Fixtures: a configuration with one station, events, and a real uWSGI."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import (
    RECORDINGS,
    Server,
    start_uwsgi,
    stop,
    write_config,
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
