"""Reads the ini file into one frozen `Config`.

Both programs read the same file, once, at start.  Whatever is wrong with it
is a `ConfigError` whose text is one line for the operator, naming the file
and the section, key or line.

In a value `${NAME}` stands for the environment variable NAME, and `$${` for
`${` itself; every other `$` stands for itself.
"""

import configparser
import contextlib
import ipaddress
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from datetime import date, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECTIONS = ('General', 'Stations', 'Writer', 'Suspicion', 'Status')

_VARIABLE = re.compile(r'(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)\}')


class ConfigError(Exception):
    """The configuration, or a file it names, cannot be used; one line says why."""


def _path(text: str, directory: Path) -> Path:
    # Relative to the ini file, so that no program's working directory matters.
    return directory / Path(text).expanduser()


def _log(text: str, directory: Path) -> str:
    return text if text == '-' else str(_path(text, directory))


def _loglevel(text: str, directory: Path) -> int:
    level = logging.getLevelName(text.upper())
    if not isinstance(level, int) or level == logging.NOTSET:
        raise ValueError('is not debug, info, warning, error or critical')
    return level


def _log_format(text: str, directory: Path) -> str:
    if text not in ('text', 'json'):
        raise ValueError('is not text or json')
    return text


def _yes_or_no(text: str, directory: Path) -> bool:
    if text.lower() not in ('yes', 'no'):
        raise ValueError('is not yes or no')
    return text.lower() == 'yes'


_BYTES = {'': 1, 'B': 1, 'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30, 'TiB': 2**40}
_SECONDS = {'': 1, 's': 1, 'min': 60, 'hour': 3600, 'day': 86400}


def _quantity(text: str, units: dict[str, int], plural: str = '') -> float:
    match = re.fullmatch(r'(\d+(?:\.\d*)?)\s*([A-Za-z]*)', text)
    unit = match[2] if match else ''
    if unit not in units and plural:
        unit = unit.removesuffix(plural)
    if not match or unit not in units:
        names = ', '.join(name for name in units if name)
        raise ValueError(f'is not a number, or a number with a unit ({names})')
    return float(match[1]) * units[unit]


def _size(text: str, directory: Path) -> int:
    size = int(_quantity(text, _BYTES))
    if size < 1:
        raise ValueError('is less than a byte')
    return size


def _size_or_off(text: str, directory: Path) -> int | None:
    if text.lower() == 'off':
        return None
    try:
        return _size(text, directory)
    except ValueError as error:
        raise ValueError(f'{error}, or off') from None


def _duration(text: str, longest: timedelta) -> float:
    duration = _quantity(text, _SECONDS, plural='s')
    if not 0 < duration <= longest.total_seconds():
        raise ValueError(f'is not above zero and up to {longest.days} days')
    return duration


def _pause(text: str, directory: Path) -> float:
    return _duration(text, timedelta(days=1))


def _tolerance(text: str, directory: Path) -> timedelta:
    return timedelta(seconds=_duration(text, timedelta(days=36525)))


def _date(text: str, directory: Path) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError('is not a date such as 2020-01-01') from None


def _silence(text: str, directory: Path) -> timedelta:
    return timedelta(seconds=_duration(text, timedelta(days=365)))


Network = IPv4Network | IPv6Network


def _networks(text: str, directory: Path) -> tuple[Network, ...]:
    if text.lower() == 'off':
        return ()
    try:
        return tuple(ip_network(name.strip()) for name in text.split(','))
    except ValueError as error:
        raise ValueError(
            f'is not a list of networks such as 192.0.2.0/24, ::1, or off: {error}'
        ) from None


def secure_url(text: str) -> str:
    """Return an address that may be fetched from; raises ValueError for others.

    Only from this machine itself over plain HTTP: whoever can change what is
    on its way decides who may upload.
    """
    if not re.fullmatch('[!-~]+', text):
        raise ValueError('is not a URL: it holds a space or a sign beyond ASCII')
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # Python's own reason would quote what may be a password.
        raise ValueError('is not a URL: its host or port cannot be') from None
    if parts.scheme not in ('http', 'https') or not host:
        raise ValueError('is not a URL such as https://example.org/stations.csv')
    if parts.scheme == 'http' and not is_loopback(host):
        raise ValueError('is not safe from changes on its way; use https')
    return text


def shown_url(url: str) -> str:
    """Return a URL as it may be shown: without a password or a key in it."""
    return re.sub(r'\?.*', '?...', re.sub('//[^/?#]*@', '//', url))


def _shown(text: str) -> str:
    return shown_url(text) if '://' in text else text


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def _url_or_off(text: str, directory: Path) -> str | None:
    return None if text.lower() == 'off' else secure_url(text)


def _path_or_system(text: str, directory: Path) -> Path | None:
    return None if text.lower() == 'system' else _path(text, directory)


def _key(
    section: str, parse: Callable[[str, Path], Any], default: Any = MISSING
) -> Any:
    """A field read from the key of its own name in `section`."""
    metadata = {'section': section, 'parse': parse}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the operator decided.  A key without a default must be given."""

    # The ini file itself.
    path: Path

    # Prefix of the log files, as <log>-wsgi.<pid> and <log>-writer; or - for
    # standard error, as journald and containers want it.
    log: str = _key('General', _log)
    # The least severe messages to log: debug, info, warning, error, critical.
    loglevel: int = _key('General', _loglevel, logging.INFO)
    # A line of the log is text, for people, or a JSON object, for programs.
    log_format: str = _key('General', _log_format, 'text')
    # CSV file with each station's number, cluster and password.
    station_list: Path = _key('General', _path)
    # Where the spool and the archive live; one file system.
    data_dir: Path = _key('General', _path)
    # Largest body of an upload, in bytes; more is answered 400.
    max_upload: int = _key('General', _size, 16 * 2**20)
    # Bytes to leave free on data_dir's file system; None leaves none.  Below
    # it uploads are answered 205, and the stations try again later.
    min_free_space: int | None = _key('General', _size_or_off, 2**30)
    # Bytes that may wait in the spool; None for any number.  Above it uploads
    # are answered 205.
    max_spool_size: int | None = _key('General', _size_or_off, None)

    # Where the station list is fetched from, by the writer; https.  What
    # station_list names is then a copy, which is not edited by hand.  None
    # for a list that is.
    url: str | None = _key('Stations', _url_or_off, None)
    # Seconds, or with a unit (`5 min`), between two looks whether it changed.
    interval: float = _key('Stations', _pause, 300.0)
    # Seconds that a fetch may take.
    timeout: float = _key('Stations', _pause, 30.0)
    # PEM file of the authorities that may vouch for url's server; None for
    # those that this machine trusts.
    ca_file: Path | None = _key('Stations', _path_or_system, None)

    # Seconds between two sweeps of the spool; may be a fraction; up to a day.
    sleep: float = _key('Writer', _pause, 60.0)

    # Events before this day are suspicious.
    earliest: date = _key('Suspicion', _date, date(2020, 1, 1))
    # Events further ahead of this machine's clock are suspicious; seconds, or
    # with a unit (`1 day`).
    future_tolerance: timedelta = _key('Suspicion', _tolerance, timedelta(days=1))

    # Whether /metrics counts the uploads and events of each station, too.
    per_station_metrics: bool = _key('Status', _yes_or_no, False)
    # A station whose last upload is longer ago than `late` is late, and longer
    # ago than `down` is down.
    late: timedelta = _key('Status', _silence, timedelta(hours=1))
    down: timedelta = _key('Status', _silence, timedelta(days=1))
    # Networks that may GET /metrics, /healthz and /status.json; others are told
    # 404, and so are requests that a web server passes on.  Empty for nobody.
    allow: tuple[Network, ...] = _key(
        'Status', _networks, (ip_network('127.0.0.0/8'), ip_network('::1'))
    )


_KEYS = {
    (key.metadata['section'], key.name): key
    for key in fields(Config)
    if 'section' in key.metadata
}


def read_config(path: str | os.PathLike[str]) -> Config:
    """Return the configuration in the ini file `path`.

    Raises ConfigError if the file cannot be read, or a section or key is
    missing, unknown, given twice, or has a value that cannot be used.
    """
    path = Path(path).absolute()
    parser = configparser.ConfigParser(interpolation=None, default_section='')
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        with open(path, encoding='utf-8-sig') as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror}') from error
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise ConfigError(f'{path}: {reason}') from error

    values = {}
    for section in parser.sections():
        if section not in SECTIONS:
            raise ConfigError(f'{path}: unknown section [{section}]')
        for name, text in parser[section].items():
            if (section, name) not in _KEYS:
                raise ConfigError(f'{path}: unknown key {name} in [{section}]')
            parse = _KEYS[section, name].metadata['parse']
            try:
                if not text:
                    raise ValueError('is empty')
                if '\n' in text:
                    raise ValueError('goes on on the next line, which is indented')
                if '\0' in text:
                    raise ValueError('holds a NUL')
                values[name] = parse(_expanded(text), path.parent)
            except _NotSet as error:
                raise ConfigError(f'{path}: {name} in [{section}]: {error}') from error
            # The text is quoted as it stands in the file: a variable may hold a
            # secret.  Numbers may be beyond any float, and ~user be nobody.
            except (ValueError, OverflowError, RuntimeError) as error:
                raise ConfigError(
                    f'{path}: {name} in [{section}]: {_shown(text)!r} {error}'
                ) from error
    for (section, name), key in _KEYS.items():
        if name not in values and key.default is MISSING:
            raise ConfigError(f'{path}: key {name} is missing in [{section}]')
    config = Config(path=path, **values)
    if config.late > config.down:
        raise ConfigError(f'{path}: late in [Status] is longer than down')
    return config


class _NotSet(Exception):
    """An environment variable that a value names is not set."""


def _expanded(text: str) -> str:
    """Return a value with the environment variables it names."""

    def value(match: re.Match[str]) -> str:
        escape, name = match.groups()
        if escape:
            return f'${{{name}}}'
        if name not in os.environ:
            raise _NotSet(f'environment variable {name} is not set')
        if not os.environ[name] or '\n' in os.environ[name]:
            raise _NotSet(f'environment variable {name} is empty, or has line breaks')
        return os.environ[name]

    return _VARIABLE.sub(value, text)


@contextlib.contextmanager
def blaming(config: Config, key: str) -> Iterator[None]:
    """Raise ConfigError, naming the key of [General], for any OSError in here."""
    try:
        yield
    except OSError as error:
        what = error.filename or getattr(config, key)
        raise ConfigError(
            f'{config.path}: {key} in [General]: {what}: {error.strerror}'
        ) from error
