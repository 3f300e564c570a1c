"""The WSGI callable: read, authenticate, verify, decode, flag, spool, answer.

Deployed under uWSGI as

    application = functools.partial(wsgi_app.application, configfile=...)

Stations read the body of the answer and nothing else: a number of
`wsgi.rcodes`.  100 is a promise that the batch is on disk.
"""

import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from datastore.batch import encode_series
from datastore.config import Config, ConfigError, blaming, read_config
from datastore.event import Event
from datastore.logs import open_log
from datastore.memory import keep_memory
from datastore.series import Series, count_events, in_series
from datastore.spool import Spool
from datastore.status import StatusReport
from datastore.suspicious import Flagged, Suspicious
from datastore.upload_id import new_upload_id
from wsgi import rcodes, server_log, status_pages
from wsgi.following import FollowedStations
from wsgi.metrics import MetricsPage
from wsgi.outcomes import Outcomes, Receipt
from wsgi.pressure import Pressure
from wsgi.protocol0 import EventReader
from wsgi.rcodes import TransactionFailed, UploadError
from wsgi.stations import Station
from wsgi.suspicion import are_good, limits, sort_out
from wsgi.unpickle import decode_object, load_event_list
from wsgi.upload import read_upload, verified_data

__all__ = [
    'application',
    'decode_object',
    'do_init',
    'is_data_suspicious',
    'store_data',
]


class Endpoint(NamedTuple):
    """All that answering uploads takes, from one configuration file."""

    config: Config
    stations: FollowedStations
    spool: Spool
    suspicious: Suspicious
    pressure: Pressure
    reader: EventReader
    decoding: threading.Lock
    outcomes: Outcomes
    report: StatusReport
    metrics_page: MetricsPage
    logger: logging.Logger


def application(
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    configfile: str | os.PathLike[str],
) -> Iterable[bytes]:
    """Answer one upload with its code, whatever it is; HTTP 200, text/plain.

    A GET of a page of `wsgi.status_pages` is answered with that.
    """
    if status_pages.is_asked_for(environ):
        return status_pages.answer(
            environ, start_response, lambda: _endpoint(configfile)
        )
    try:
        rcode = _receive(environ, _endpoint(configfile))
    except ConfigError as error:
        # At start do_init says this; here a deployment has not called it.
        server_log.say(environ, str(error))
        rcode = rcodes.INTERNAL_ERROR
    except Exception:
        # Nothing narrower: no log is open, and the station waits for a number.
        server_log.say(environ, traceback.format_exc())
        rcode = rcodes.INTERNAL_ERROR
    answer = b'%d' % rcode
    start_response(
        '200 OK',
        [('Content-Type', 'text/plain'), ('Content-Length', str(len(answer)))],
    )
    return [answer]


def do_init(configfile: str | os.PathLike[str]) -> Endpoint:
    """Initialise this process for a configuration file, once.

    Reads the configuration and the station list, creates the directories and
    opens the log.  The functions below act on the file last given here.

    Raises ConfigError if any of these cannot be used; one line says why.
    """
    global _current
    _current = _endpoint(configfile)
    return _current


def is_data_suspicious(event_list: list[dict[str, Any]]) -> bool:
    """Return whether any event of the list is suspicious."""
    _, flagged = _sort_out(_initialised(), event_list)
    return bool(flagged)


def store_data(station_id: int, cluster: str, event_list: list[dict[str, Any]]) -> None:
    """Store a verified event list, durable when this returns.

    Good events go to the spool, suspicious ones are set aside with their
    reasons.  Raises TransactionFailed if the disk does not take them.
    """
    endpoint = _initialised()
    good, flagged = _sort_out(endpoint, event_list)
    station = Station(station_id, cluster, '')
    _store(endpoint, new_upload_id(), station, in_series(good), flagged)


def _receive(environ: dict[str, Any], endpoint: Endpoint) -> int:
    """Take one upload in and return the code that answers it."""
    receipt = Receipt(environ)
    try:
        upload = read_upload(environ, endpoint.config.max_upload)
        receipt.station = upload.station_id
        # Nothing is decoded before its sender is known.
        station = endpoint.stations.authenticate(upload.station_id, upload.password)
        endpoint.pressure.check(len(upload.encoded_data))
        # One thread at a time, while others wait for senders and for the disk:
        # threads that take turns here take the processor's caches from each
        # other, and the memory of a large upload several times.
        with endpoint.decoding:
            pickled = verified_data(upload)
            good, flagged = _decode(endpoint, pickled)
        _store(endpoint, receipt.upload, station, good, flagged)
    except UploadError as error:
        return endpoint.outcomes.refused(receipt, error)
    except Exception as error:
        # Nothing narrower: whatever goes wrong, the station keeps its batch.
        return endpoint.outcomes.failed(receipt, error)
    return endpoint.outcomes.taken(receipt, len(pickled), good, flagged)


def _decode(endpoint: Endpoint, pickled: bytes) -> tuple[list[Series], list[Flagged]]:
    """Return the good events of an upload, and the flagged ones as they came."""
    read = endpoint.reader.read(pickled)
    within = limits(endpoint.config, time.time())
    if read is not None and all(are_good(series, within) for series in read):
        return read, []
    good, flagged = sort_out(load_event_list(pickled), within)
    return in_series(good), flagged


def _store(
    endpoint: Endpoint,
    upload: str,
    station: Station,
    good: list[Series],
    flagged: list[Flagged],
) -> None:
    received = time.time_ns()
    number, cluster = station.number, station.cluster
    try:
        # The flagged first: a station that has to send the batch again
        # replaces them, where good events would be stored a second time.
        if flagged:
            # One thread at a time, as above: it takes more memory than decoding.
            with endpoint.decoding:
                name = endpoint.suspicious.put(
                    number, cluster, received, flagged, upload
                )
        if good:
            batch = encode_series(number, cluster, received, good)
            endpoint.spool.append(number, batch, upload)
    except OSError as error:
        raise TransactionFailed(f'the disk does not take it: {error}') from error
    if flagged:
        endpoint.logger.warning(
            'station %d: %d of %d events are suspicious, kept in %s; the first: %s',
            number,
            len(flagged),
            count_events(good) + len(flagged),
            name,
            '; '.join(flagged[0].reasons),
            extra={'upload': upload, 'station': number, 'suspicious': len(flagged)},
        )


def _sort_out(
    endpoint: Endpoint, event_list: list[dict[str, Any]]
) -> tuple[list[Event], list[Flagged]]:
    return sort_out(event_list, limits(endpoint.config, time.time()))


# One endpoint for each configuration file, in each process: a log file is
# named after the process, and must not be shared across a fork.
_endpoints: dict[tuple[str, int], Endpoint] = {}
_current: Endpoint | None = None
_initialising = threading.Lock()


def _endpoint(configfile: str | os.PathLike[str]) -> Endpoint:
    key = os.path.abspath(configfile), os.getpid()
    if key not in _endpoints:
        with _initialising:
            if key not in _endpoints:
                _endpoints[key] = _initialise(*key)
    return _endpoints[key]


def _initialise(configfile: str, pid: int) -> Endpoint:
    # Named after the file, so that two applications do not share a log.
    logger = logging.getLogger(f'wsgi:{configfile}')
    # A worker that the master forks, today or to replace one that died, works as
    # the master was started: what was written into the files since then is not
    # in force, and may be half of a change, or a mistake.
    of_master = [e for (name, _), e in _endpoints.items() if name == configfile]
    if of_master:
        config, stations = of_master[0].config, of_master[0].stations
        _open_log_at_any_rate(logger, config, f'wsgi.{pid}')
    else:
        config = read_config(configfile)
        stations = FollowedStations(config, logger)
        open_log(logger, config, f'wsgi.{pid}')
    with blaming(config, 'data_dir'):
        spool = Spool(config.data_dir)
        suspicious = Suspicious(config.data_dir)
    logger.info('%d stations listed in %s', len(stations), config.station_list)
    pressure = Pressure(config, spool)
    keep_memory()
    return Endpoint(
        config=config,
        stations=stations,
        spool=spool,
        suspicious=suspicious,
        pressure=pressure,
        reader=EventReader(),
        decoding=threading.Lock(),
        outcomes=Outcomes(config, logger),
        report=StatusReport(config),
        metrics_page=MetricsPage(config),
        logger=logger,
    )


def _open_log_at_any_rate(logger: logging.Logger, config: Config, program: str) -> None:
    """Open the log, or say why not where uWSGI says what it does.

    Uploads do not wait for somebody who mends the directory of the log.
    """
    try:
        open_log(logger, config, program)
    except ConfigError as error:
        open_log(logger, replace(config, log='-'), program)
        logger.error('this worker has no log of its own: %s', error)


def _initialised() -> Endpoint:
    if _current is None:
        raise RuntimeError('do_init(configfile) has not been called')
    return _current
