"""Sweeps the spool every N seconds until told to stop.

    python -m writer --config PATH [--once]

A sweep takes the waiting batches of one station after the other, and appends
to each day file once.  What cannot be stored now stays in the spool; what can
never be read goes to `rejected/`; what does not fit its columns goes to
`suspicious/`.
"""

import argparse
import contextlib
import fcntl
import functools
import gc
import logging
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from datastore.batch import Batch, InvalidBatch, decode_identified
from datastore.config import ConfigError, blaming, read_config
from datastore.durable import DISK_ERRORS, FILE_MODE
from datastore.event import Event
from datastore.logs import open_log
from datastore.memory import keep_memory
from datastore.spool import Spool, SpoolFileError
from datastore.suspicious import Flagged, Suspicious
from datastore.upload_id import upload_id, uploads_in_lines
from writer.collected import Collected, Misfit
from writer.digests import digests_of
from writer.journal import FileBusy, replay_journal
from writer.patience import Patience
from writer.progress import Progress
from writer.station_list_fetcher import fetching
from writer.storage import Archive, DamagedFile

logger = logging.getLogger('writer')

_DAY = 86400  # s

# Spooled bytes of one station that are in memory together; more are taken in
# turns, each appending to its files once.
_MAX_LOAD = 32 * 2**20


_MAX_CODES_LOGGED = 10_000
_CODES_AT_ONCE = 20


class AlreadyRunning(Exception):
    """Another writer works on the same data directory."""


def writer(
    configfile: str | os.PathLike[str],
    once: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Move batches from the spool to the archive until `stop` is set.

    With `once`, sweep what is there and return.

    Raises ConfigError if the configuration cannot be used, AlreadyRunning if
    another writer works on the same directory.
    """
    stop = stop or threading.Event()
    config = read_config(configfile)
    keep_memory()
    open_log(logger, config, 'writer')
    with blaming(config, 'data_dir'):
        spool = Spool(config.data_dir)
        suspicious = Suspicious(config.data_dir)
    progress = Progress(config.data_dir)
    fetched = contextlib.nullcontext() if once else fetching(config)
    with _only_writer(config.data_dir), fetched, progress.running(once):
        archive = Archive(config.data_dir, spool.remove, progress.replayed)
        patience = Patience()
        sweeper = Sweeper(spool, suspicious, archive, patience, stop, progress)
        logger.info('started, process %d, on %s', os.getpid(), config.data_dir)
        sweeper.recover()
        progress.ready()
        while True:
            pause = config.sleep
            try:
                with progress.sweeping():
                    sweeper.sweep()
                patience.succeeded('spool')
            except OSError as error:
                if once or error.errno not in DISK_ERRORS:
                    raise
                pause = max(pause, patience.failed('spool'))
                logger.error(
                    'cannot read the spool, next try in %g s: %s', pause, error
                )
            if once or progress.wait(stop, pause):
                break
        logger.info('stopped')


class _DayKey(NamedTuple):
    """What one append is for: a station in a cluster on a day, since 1970."""

    station: int
    cluster: str
    day: int


class _Load:
    """Batches of one station that are in memory together.

    `received` has when each of them arrived, `unstored` the appends that it
    waits for, and `names` the batches of each append.  `days` has the events of
    each; or why they cannot be collected, or None if it is not time to try again.
    """

    def __init__(self) -> None:
        self.size = 0  # bytes
        self.received: dict[str, int] = {}
        self.unstored: dict[str, set[_DayKey]] = {}
        self.names: dict[_DayKey, list[str]] = defaultdict(list)
        self.days: dict[_DayKey, Collected | Exception | None] = {}
        # By station and day: clusters share a file.
        self.seen: dict[tuple[int, int], set[bytes]] = defaultdict(set)


class Sweeper:
    """Moves batches from the spool to the archive."""

    def __init__(
        self,
        spool: Spool,
        suspicious: Suspicious,
        archive: Archive,
        patience: Patience,
        stop: threading.Event,
        progress: Progress,
    ) -> None:
        self._spool = spool
        self._suspicious = suspicious
        self._archive = archive
        self._stop = stop
        self._patience = patience
        self._progress = progress
        self._codes_logged: set[tuple[int, str]] = set()
        # Of batches that wait for another day: once their suspicious events are
        # kept, a person may have decided on them.
        self._set_aside_of: set[tuple[str, _DayKey]] = set()

    def recover(self) -> None:
        """Finish what a crash interrupted, and clear up after it."""
        for journal in self._archive.journals():
            try:
                replay_journal(journal, self._spool.remove, self._progress.replayed)
            except (FileBusy, OSError) as error:
                # It is replayed when its file is next written to.
                logger.error('cannot replay %s yet: %s', journal, error)
        if debris := self._spool.remove_debris():
            logger.warning('removed %d files a crash left in tmp/', debris)

    def sweep(self) -> None:
        """Store every batch that is waiting; return early if told to stop.

        Raises OSError if the spool itself cannot be read.
        """
        waiting = self._spool.waiting(self._progress.alive)
        for error in waiting.unreadable:
            logger.error('cannot read a part of the spool, left alone: %s', error)
        for name, reason in waiting.strangers.items():
            self._progress.alive()
            self._reject(name, reason)
        if self._set_aside_of:
            present = set(chain.from_iterable(waiting.batches.values()))
            self._set_aside_of = {e for e in self._set_aside_of if e[0] in present}
        for names in waiting.batches.values():
            some = iter(names)
            while load := self._load(some):
                self._progress.loaded(len(load.received))
                is_stored = self._store(load)
                if self._stop.is_set():
                    return
                if not is_stored:
                    # Tracebacks, and what h5py makes of them, refer to the load
                    # and to each other; the collector seldom looks by itself.
                    load = None
                    gc.collect()
        if trouble := self._spool.recycle():
            logger.error(
                'cannot use %d segments of the spool again yet; the first: %s',
                len(trouble),
                trouble[0],
            )
        self._progress.swept(self._spool.pending)

    def _load(self, names: Iterator[str]) -> _Load | None:
        """Read batches, as many at a time as memory allows; None if there are none."""
        load = _Load()
        for name in names:
            self._progress.alive()
            try:
                content = self._spool.get(name)
                batch, identities = decode_identified(content)
            except (SpoolFileError, InvalidBatch) as error:
                self._reject(name, str(error))
                continue
            except FileNotFoundError:
                continue  # somebody took it away
            except OSError as error:
                logger.error(
                    'cannot read spool file %s, left alone: %s',
                    name,
                    error,
                    extra={'upload': upload_id(name)},
                )
                continue
            load.received[name] = batch.received
            load.unstored[name] = set()
            if not batch.events:
                self._remove(name)
            self._collect(load, name, batch, digests_of(identities))
            load.size += len(content)
            if load.size >= _MAX_LOAD:
                break
        return load if load.received else None

    def _collect(
        self, load: _Load, name: str, batch: Batch, digests: list[bytes]
    ) -> None:
        """Share the events of a batch out to the days that they are of."""
        for day, events, of_day in _by_day(batch.events, digests):
            key = _DayKey(batch.station, batch.cluster, day)
            load.unstored[name].add(key)
            load.names[key].append(name)
            if key not in load.days:
                load.days[key] = self._collected(load, key)
            collected = load.days[key]
            if isinstance(collected, Collected):
                try:
                    collected.add(name, events, of_day)
                except (FileBusy, DamagedFile, OSError) as error:
                    load.days[key] = error

    def _collected(self, load: _Load, key: _DayKey) -> Collected | None:
        if not self._patience.is_due(key):
            return None
        known = functools.partial(self._archive.digests, key.station, key.day)
        return Collected(known, load.seen[key.station, key.day])

    def _remove(self, name: str) -> None:
        try:
            self._spool.remove([name])
        except OSError as error:
            fields = {'upload': upload_id(name)}
            logger.error('cannot remove spool file %s: %s', name, error, extra=fields)

    def _reject(self, name: str, reason: str) -> None:
        fields = {'upload': upload_id(name)}
        try:
            self._spool.reject(name, reason)
        except OSError as error:
            logger.error('cannot reject spool file %s: %s', name, error, extra=fields)
        else:
            logger.error('rejected spool file %s: %s', name, reason, extra=fields)
            self._progress.rejected()

    def _store(self, load: _Load) -> bool:
        """Append what was collected to the day files; return whether all is there."""
        is_stored = True
        for key in list(load.days):
            self._progress.alive()
            if self._stop.is_set():
                return False
            collected = load.days.pop(key)  # and forgotten when it is stored
            if collected is None:
                continue
            names = load.names[key]
            last = [name for name in names if load.unstored[name] == {key}]
            try:
                if isinstance(collected, Exception):
                    raise collected
                self._append(key, collected, load.received, last)
            except (FileBusy, DamagedFile, OSError) as error:
                is_stored = False
                self._postpone(key, names, error)
            else:
                self._patience.succeeded(key)
                for name in names:
                    load.unstored[name].discard(key)
        return is_stored

    def _postpone(self, key: _DayKey, names: list[str], error: Exception) -> None:
        """Say why the events of these batches for a day wait on."""
        if isinstance(error, FileBusy):
            # At each sweep while somebody reads: not all uploads are named.
            waiting, *_ = uploads_in_lines(names)
            logger.info(
                '%s; %d batches wait for the next sweep',
                error,
                len(names),
                extra={'uploads': waiting},
            )
            return
        pause = self._patience.failed(key)
        for uploads in uploads_in_lines(names):
            logger.error(
                'station %d: %d batches stay spooled, next try in %g s: %s',
                key.station,
                len(names),
                pause,
                error,
                extra={'station': key.station, 'uploads': uploads},
            )

    def _append(
        self,
        key: _DayKey,
        collected: Collected,
        received: dict[str, int],
        last: list[str],
    ) -> None:
        """Append what was collected for one day to its file.

        `received` is when each batch arrived; `last` are the batches of which
        nothing is left to store after this.
        """
        tables = collected.tables()
        self._log_unknown_codes(key.station, collected.unknown_codes)
        misfits = [
            misfit
            for misfit in collected.misfits
            if (misfit.name, key) not in self._set_aside_of
        ]
        self._set_aside(key, misfits, received)
        self._set_aside_of |= {(misfit.name, key) for misfit in misfits}
        if collected.digests:
            known = collected.known()
            self._archive.append(*key, tables, collected.digests, known, last)
            self._progress.committed(key.station)
        else:
            self._spool.remove(last)
        self._progress.appended(
            key.station,
            key,
            batches=collected.names,
            new=collected.new,
            flagged=[misfit.name for misfit in collected.misfits],
            finished=last,
        )
        if collected.digests or misfits or last:
            self._log_append(key, collected, len(misfits))

    def _set_aside(
        self, key: _DayKey, misfits: list[Misfit], received: dict[str, int]
    ) -> None:
        """Keep events that do not fit their columns for a person."""
        of_batch: dict[str, list[Misfit]] = defaultdict(list)
        for misfit in misfits:
            of_batch[misfit.name].append(misfit)
        for name, of_this in of_batch.items():
            # One batch at a time: as uploaded they take four times the memory.
            events = [
                Flagged(event.as_uploaded(), reasons) for _, event, reasons in of_this
            ]
            # Before the batch can be removed; again, after a crash, replaces it.
            upload = upload_id(name)
            kept = self._suspicious.put(
                key.station, key.cluster, received[name], events, upload
            )
            logger.warning(
                'station %d: %d events are suspicious, kept in %s; the first: %s',
                key.station,
                len(events),
                kept,
                '; '.join(events[0].reasons),
                extra={
                    'upload': upload,
                    'station': key.station,
                    'suspicious': len(events),
                },
            )

    def _log_append(self, key: _DayKey, collected: Collected, suspicious: int) -> None:
        stored = len(collected.digests)
        duplicates = len(collected.names) - len(collected.new)
        path = self._archive.path(key.station, key.day)
        fields = {'station': key.station, 'path': str(path)}
        uploads, *others = uploads_in_lines(set(collected.names))
        logger.info(
            'station %d: %d events stored from %d batches, %d sent before, '
            '%d suspicious, in %s',
            key.station,
            stored,
            len(set(collected.new)),
            duplicates,
            suspicious,
            path,
            extra=fields
            | {
                'uploads': uploads,
                'events': stored,
                'duplicates': duplicates,
                'suspicious': suspicious,
            },
        )
        for uploads in others:
            logger.info(
                'station %d: more uploads of that commit, in %s',
                key.station,
                path,
                extra=fields | {'uploads': uploads},
            )

    def _log_unknown_codes(self, station: int, codes: set[str]) -> None:
        new = sorted(c for c in codes if (station, c) not in self._codes_logged)
        # A station that invents codes is not to fill the memory, nor the log.
        if len(self._codes_logged) + len(new) > _MAX_CODES_LOGGED:
            self._codes_logged.clear()
        self._codes_logged |= {(station, code) for code in new[:_MAX_CODES_LOGGED]}
        for code in new[:_CODES_AT_ONCE]:
            logger.warning(
                'station %d sends upload code %.40r, which no column takes; '
                'its values are not archived',
                station,
                code,
            )
        if len(new) > _CODES_AT_ONCE:
            logger.warning(
                'station %d sends %d more upload codes that no column takes',
                station,
                len(new) - _CODES_AT_ONCE,
            )


def _by_day(
    events: Sequence[Event], digests: Sequence[bytes]
) -> Iterator[tuple[int, Sequence[Event], Sequence[bytes]]]:
    """Yield the events of each day, since 1970, and their digests."""
    days = [event.timestamp // _DAY for event in events]
    if len(set(days)) == 1:  # nearly always
        yield days[0], events, digests
        return
    positions: dict[int, list[int]] = defaultdict(list)
    for position, day in enumerate(days):
        positions[day].append(position)
    for day, chosen in positions.items():
        yield day, [events[n] for n in chosen], [digests[n] for n in chosen]


@contextlib.contextmanager
def _only_writer(data_dir: Path) -> Iterator[None]:
    """Hold the lock that makes this the only writer on `data_dir`.

    Raises AlreadyRunning, with the other's process number.  The kernel frees
    the lock of a writer that dies, so the file may stay.
    """
    lock = data_dir / 'writer.lock'
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode('ascii', 'replace').strip()
            raise AlreadyRunning(
                f'another writer, process {pid or "unknown"}, works on {data_dir}'
            ) from None
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, b'%d\n' % os.getpid())
        except OSError as error:
            # A full disk does not say of which file it speaks.
            raise OSError(error.errno, error.strerror, str(lock)) from error
        yield
    finally:
        os.close(descriptor)


def main(argv: list[str] | None = None) -> int:
    """Run the writer as a program; return its exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m writer',
        description='Move uploaded batches from the spool into the archive.',
    )
    parser.add_argument('--config', required=True, metavar='PATH', help='the ini file')
    parser.add_argument(
        '--once', action='store_true', help='sweep what is waiting, then exit'
    )
    arguments = parser.parse_args(argv)

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: the event's own lock may be held where the signal comes.
        signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())
    try:
        writer(arguments.config, once=arguments.once, stop=stop)
    except (ConfigError, AlreadyRunning, OSError) as error:
        print(f'writer: {error}', file=sys.stderr)
        return 1
    except Exception:
        # Nothing narrower: whatever it is, it must be in the log.
        logger.exception('stopped by an error of its own')
        print('writer: stopped by an error of its own, see the log', file=sys.stderr)
        return 1
    return 0
