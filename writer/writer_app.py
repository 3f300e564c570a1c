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
import logging
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datastore.batch import Batch, InvalidBatch, decode_batch
from datastore.config import ConfigError, blaming, read_config
from datastore.durable import DISK_ERRORS
from datastore.event import Event
from datastore.logs import open_log
from datastore.memory import keep_memory
from datastore.spool import Spool, SpoolFileError
from datastore.suspicious import Flagged, Suspicious
from datastore.upload_id import upload_id, uploads_in_lines
from writer.digests import event_digests
from writer.journal import FileBusy, finish_all, replay_journal
from writer.patience import Patience
from writer.progress import Progress
from writer.rows import rows_and_blobs
from writer.station_list_fetcher import fetching
from writer.storage import Archive, DamagedFile

logger = logging.getLogger('writer')

_DAY = 86400  # s

# Spooled bytes of one station that are in memory together; more are taken in
# turns, each appending to its files once.
_MAX_LOAD = 32 * 2**20


_MAX_CODES_LOGGED = 10_000


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
        for name in self._spool.strangers():
            self._progress.alive()
            self._reject(name, 'this is not the name of a spool file')
        for names in self._spool.pending().values():
            for batches in self._loads(names):
                self._progress.loaded(len(batches))
                self._store(batches)
                if self._stop.is_set():
                    return
        self._progress.swept(self._spool.pending)

    def _loads(self, names: list[str]) -> Iterator[dict[str, Batch]]:
        """Yield the batches by name, as many at a time as memory allows."""
        batches: dict[str, Batch] = {}
        size = 0
        for name in names:
            self._progress.alive()
            try:
                content = self._spool.get(name)
                batches[name] = decode_batch(content)
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
            size += len(content)
            if size >= _MAX_LOAD:
                yield batches
                batches, size = {}, 0
        if batches:
            yield batches

    def _reject(self, name: str, reason: str) -> None:
        fields = {'upload': upload_id(name)}
        try:
            self._spool.reject(name, reason)
        except OSError as error:
            logger.error('cannot reject spool file %s: %s', name, error, extra=fields)
        else:
            logger.error('rejected spool file %s: %s', name, reason, extra=fields)
            self._progress.rejected()

    def _store(self, batches: dict[str, Batch]) -> None:
        """Append the events of these batches, of one station, to their day files."""
        days: dict[_DayKey, list[tuple[str, Event]]] = defaultdict(list)
        unstored: dict[str, set[_DayKey]] = {name: set() for name in batches}
        for name, batch in batches.items():
            if not batch.events:
                self._spool.remove(name)
            of_day: dict[int, list[tuple[str, Event]]] = {}
            for event in batch.events:
                day = event.timestamp // _DAY
                entries = of_day.get(day)
                if entries is None:
                    key = _DayKey(batch.station, batch.cluster, day)
                    entries = of_day[day] = days[key]
                    unstored[name].add(key)
                entries.append((name, event))
        for key, entries in days.items():
            self._progress.alive()
            if self._stop.is_set():
                return
            if not self._patience.is_due(key):
                continue
            names = {name for name, _ in entries}
            last = [name for name in names if unstored[name] == {key}]
            try:
                self._append(key, entries, batches, last)
            except FileBusy as error:
                # At each sweep while somebody reads: not all uploads are named.
                waiting, *_ = uploads_in_lines(names)
                logger.info(
                    '%s; %d batches wait for the next sweep',
                    error,
                    len(names),
                    extra={'uploads': waiting},
                )
            except (DamagedFile, OSError) as error:
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
            else:
                self._patience.succeeded(key)
                for name in names:
                    unstored[name].discard(key)

    def _append(
        self,
        key: _DayKey,
        entries: list[tuple[str, Event]],
        batches: dict[str, Batch],
        last: list[str],
    ) -> None:
        """Append the events of one day to its file.

        `entries` are the events, each with the name of its batch; `last` are
        the batches of which nothing is left to store after this.
        """
        # Leave out what the file holds already, or what comes twice in here.
        known = self._archive.digests(key.station, key.day)
        digests = event_digests(event for _, event in entries)
        new: dict[bytes, tuple[str, Event]] = {}
        for digest, is_new, entry in zip(
            digests, known.lacks(digests), entries, strict=True
        ):
            if is_new:
                new.setdefault(digest, entry)
        sources = [name for name, _ in new.values()]
        conversion = rows_and_blobs([event for _, event in new.values()])
        self._log_unknown_codes(key.station, conversion.unknown_codes)

        digests = list(new)
        flagged: dict[str, list[Flagged]] = defaultdict(list)
        for position, reasons in conversion.flagged:
            event = new[digests[position]][1]
            flagged[sources[position]].append(Flagged(event.as_uploaded(), reasons))
        for name, events in flagged.items():
            received = batches[name].received
            # Before the batch can be removed; again, after a crash, replaces it.
            upload = upload_id(name)
            kept = self._suspicious.put(
                key.station, key.cluster, received, events, upload
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

        bad = {position for position, _ in conversion.flagged}
        stored = [d for position, d in enumerate(digests) if position not in bad]
        if stored:
            self._archive.append(*key, conversion.tables, stored, last)
            self._progress.committed(key.station)
        else:
            finish_all(last, self._spool.remove)
        self._progress.appended(
            key.station,
            key,
            batches=[name for name, _ in entries],
            new=sources,
            flagged=[sources[position] for position in bad],
            finished=last,
        )
        duplicates = len(entries) - len(new)
        path = self._archive.path(key.station, key.day)
        fields = {'station': key.station, 'path': str(path)}
        uploads, *others = uploads_in_lines({name for name, _ in entries})
        logger.info(
            'station %d: %d events stored from %d batches, %d sent before, '
            '%d suspicious, in %s',
            key.station,
            len(stored),
            len(set(sources)),
            duplicates,
            len(bad),
            path,
            extra=fields
            | {
                'uploads': uploads,
                'events': len(stored),
                'duplicates': duplicates,
                'suspicious': len(bad),
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
        for code in sorted(codes):
            # A station that invents codes is not to fill the memory.
            if len(self._codes_logged) > _MAX_CODES_LOGGED:
                self._codes_logged.clear()
            if (station, code) not in self._codes_logged:
                self._codes_logged.add((station, code))
                logger.warning(
                    'station %d sends upload code %.40r, which no column takes; '
                    'its values are not archived',
                    station,
                    code,
                )


@contextlib.contextmanager
def _only_writer(data_dir: Path) -> Iterator[None]:
    """Hold the lock that makes this the only writer on `data_dir`.

    Raises AlreadyRunning, with the other's process number.  The kernel frees
    the lock of a writer that dies, so the file may stay.
    """
    lock = data_dir / 'writer.lock'
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o640)
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
