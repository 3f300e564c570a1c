"""Reads and edits the station list.

The station list is a CSV file, UTF-8, with a line for each station: its
number, its cluster and its password, plain or hashed.  Empty lines and lines
that start with `#` are skipped; a field with a comma in it is put in double
quotes.

An edit changes one line and leaves all others as they are, byte by byte.
"""

import codecs
import contextlib
import csv
import fcntl
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datastore import durable, passwords
from datastore.config import ConfigError

# A cluster becomes part of a path inside HDF5 files, where `/` and `.` are
# not names, and of what people type: words, parted by single spaces.
_CLUSTER = re.compile(r"[\w'][\w'().&-]*( [\w'().&-]+)*")
_MAX_CLUSTER = 64
_MAX_NUMBER = 2**31 - 1

# Thirty thousand stations; whatever is longer was not meant to be one.
MAX_SIZE = 4 * 2**20  # bytes

_MAX_NAMED = 10  # numbers of stations in one line of a log

_HEADER = b'# number, cluster, password\n'


class Station(NamedTuple):
    """A line of the station list."""

    number: int
    cluster: str
    password: str


class Fault(NamedTuple):
    """What is wrong with a line, counted from 1; 0 stands for the whole list."""

    line: int
    reason: str


class Parsed(NamedTuple):
    """The stations of a list, the line each is on, and all that is wrong."""

    stations: dict[int, Station]
    lines: dict[int, int]
    faults: list[Fault]


class Changes(NamedTuple):
    """How one list differs from another, by numbers of stations."""

    added: list[int]
    removed: list[int]
    changed: list[int]

    def __str__(self) -> str:
        parts = [
            f'{len(numbers)} {what} ({_some(numbers)})'
            for what, numbers in zip(self._fields, self, strict=True)
            if numbers
        ]
        return 'stations: ' + ', '.join(parts) if parts else 'no station differs'


def read_stations(path: Path) -> dict[int, Station]:
    """Return the stations listed in the file `path`, by number.

    Raises ConfigError, naming the line, if one is malformed.
    """
    return stations_of(read_content(path), path)


def read_content(path: Path) -> bytes:
    """Return the bytes of the list; raises ConfigError if it cannot be read."""
    try:
        with open(path, 'rb') as file:
            return file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror}') from error


def stations_of(content: bytes, path: Path) -> dict[int, Station]:
    """Return the stations listed in `content`, which is that of `path`.

    Raises ConfigError, naming the first line that is malformed.
    """
    stations, _, faults = parse(content)
    if faults:
        line, reason = faults[0]
        where = f'{path}, line {line}' if line else path
        more = f'; {len(faults)} lines are at fault' if len(faults) > 1 else ''
        raise ConfigError(f'{where}: {reason}{more}')
    return stations


def parse(content: bytes) -> Parsed:
    """Return the stations of a list and everything that is wrong with it."""
    parsed = Parsed({}, {}, [])
    if len(content) > MAX_SIZE:
        parsed.faults.append(Fault(0, f'is longer than {MAX_SIZE} bytes'))
        return parsed
    content = content.removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(_lines(content), start=1):
        try:
            station = _parse_line(line)
            if station is None:
                continue
            if first := parsed.lines.get(station.number):
                raise ValueError(
                    f'station {station.number} is listed twice, first in line {first}'
                )
        except (ValueError, csv.Error) as error:
            parsed.faults.append(Fault(number, str(error)))
        else:
            parsed.stations[station.number] = station
            parsed.lines[station.number] = number
    return parsed


def changes(old: dict[int, Station], new: dict[int, Station]) -> Changes:
    """Return what a list that replaces another one changes."""
    return Changes(
        added=sorted(new.keys() - old.keys()),
        removed=sorted(old.keys() - new.keys()),
        changed=sorted(n for n in old.keys() & new.keys() if old[n] != new[n]),
    )


def with_station(content: bytes, station: Station) -> bytes:
    """Return the list with one more station, on a line of its own at the end.

    Raises ValueError if the station cannot be listed, or is already.
    """
    content = content or _HEADER
    lines = _lines(content)
    end = b'\r\n' if lines[0].endswith(b'\r\n') else b'\n'
    if not lines[-1].endswith((b'\r', b'\n')):
        content += end
    line = f'{station.number}, {station.cluster}, {_field(station.password)}'
    edited = content + line.encode('utf-8') + end
    return _checked(edited, content, station)


def with_password(content: bytes, station: Station) -> bytes:
    """Return the list with the password of a listed station replaced.

    Raises ValueError if the password cannot be listed.
    """
    lines = _lines(content)
    position = parse(content).lines[station.number] - 1
    # Neither number nor cluster can hold a comma, not even in quotes.
    number, cluster, rest = lines[position].split(b',', 2)
    text = rest.strip(b' \t\r\n')
    before, _, after = rest.partition(text)
    password = before + _field(station.password).encode('utf-8') + after
    lines[position] = b','.join([number, cluster, password])
    return _checked(b''.join(lines), content, station)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Path]:
    """Hold the lock that makes this the only edit of the list.

    Yields the file that is to be written, which is another one if `path` is a
    symbolic link.  Read it inside of here: another edit may just have ended.
    """
    path = path.resolve()
    # On the directory, because the file is replaced by another one: who waits
    # for a lock on that would get it on a file that has no name any more.
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Write the list, durably and at once, as `locked` gave its path.

    Mode, owner and group stay as they are; a new list that root makes belongs
    to whom its directory belongs to.  Raises OSError.
    """
    owner: tuple[int, int] | None
    try:
        before = os.stat(path)
        mode, owner = before.st_mode & 0o777, (before.st_uid, before.st_gid)
    except FileNotFoundError:
        directory = os.stat(path.parent)
        mode, owner = durable.FILE_MODE, None
        if os.geteuid() == 0:
            # Made by root, for programs that run as somebody else.
            owner = directory.st_uid, directory.st_gid
    # A crash before the rename leaves a draft beside the list, which nothing
    # reads and anybody may remove.
    durable.put(path, content, path.parent, mode=mode, owner=owner)


def _lines(content: bytes) -> list[bytes]:
    # Those of bytes end at \n, \r or both; those of a str at other signs too.
    return content.splitlines(keepends=True)


def _parse_line(encoded: bytes) -> Station | None:
    """Return the station on a line, or None if it is empty or a comment.

    Raises ValueError or csv.Error.  Passwords never reach a log, so no message
    quotes what the line holds.
    """
    try:
        line = encoded.decode('utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'is not UTF-8: {error.reason}') from None
    # Spreadsheets write an empty line as commas.
    if not line.strip(' \t\r\n,') or line.lstrip().startswith('#'):
        return None
    # Line by line: a quote that is not closed would swallow stations.
    (fields,) = csv.reader([line.rstrip('\r\n')], skipinitialspace=True, strict=True)
    if len(fields) != 3:
        raise ValueError(
            f'has {len(fields)} fields instead of number, cluster, password'
        )
    number, cluster, password = (text.strip() for text in fields)
    if not re.fullmatch('[0-9]{1,10}', number) or not 0 < int(number) <= _MAX_NUMBER:
        raise ValueError('the station number is not a positive whole number')
    if len(cluster) > _MAX_CLUSTER or not _CLUSTER.fullmatch(cluster):
        raise ValueError(
            f'the cluster of station {number} is not a name of letters, digits, '
            "single spaces and any of - _ . ' & ( ) with at most "
            f'{_MAX_CLUSTER} characters'
        )
    if not password:
        raise ValueError(f'station {number} has no password')
    if passwords.is_hash(password):
        try:
            passwords.parse_hash(password)
        except ValueError as error:
            raise ValueError(
                f'the password of station {number} begins with {passwords.PREFIX}, '
                f'as hashes do, and {error}'
            ) from None
    return Station(int(number), cluster, password)


def _field(password: str) -> str:
    """Return the password as a field of a line, in quotes if it needs them."""
    line = io.StringIO()
    csv.writer(line, lineterminator='').writerow([password])
    return line.getvalue()


def _checked(edited: bytes, content: bytes, station: Station) -> bytes:
    """Return the edited list if it lists what it should, and nothing else."""
    after = parse(edited)
    if after.faults:
        raise ValueError(after.faults[0].reason)
    if after.stations != parse(content).stations | {station.number: station}:
        raise ValueError(f'station {station.number} cannot be written to the list')
    return edited


def _some(numbers: list[int]) -> str:
    named = ', '.join(map(str, numbers[:_MAX_NAMED]))
    return named if len(numbers) <= _MAX_NAMED else f'{named}, ...'
