"""The pages that tell machines how the datastore fares.

    GET /healthz        200 if uploads are taken and stored, else 503; JSON
    GET /status.json    what `datastore status --json` prints
    GET /metrics        what is counted, for Prometheus

Whoever asks from outside the networks of `[Status] allow` is told 404.  Who asks
is REMOTE_ADDR, what the server says.  Behind a web server everybody has its
address, so it is not to pass these paths; if it does all the same, the headers
that it adds show it, and it is told 404.  A header that a sender made up can do
no more than that.
"""

import json
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from datastore.config import Config, ConfigError
from datastore.heartbeat import writer_status
from wsgi import server_log
from wsgi.metrics import CONTENT_TYPE as METRICS_TYPE
from wsgi.rcodes import TransactionFailed

if TYPE_CHECKING:
    from wsgi.wsgi_app import Endpoint

# What web servers say about whom they ask for.
_SIGNS_OF_A_PROXY = ('HTTP_X_FORWARDED_FOR', 'HTTP_X_REAL_IP', 'HTTP_FORWARDED')

_JSON = 'application/json'
_TEXT = 'text/plain'


class Page(NamedTuple):
    """What is answered."""

    status: str
    content_type: str
    body: bytes


def healthz(endpoint: 'Endpoint') -> Page:
    """Say whether uploads are taken and stored, and if not, why not."""
    reasons = _ailments(endpoint, time.time())
    return Page(
        '503 Service Unavailable' if reasons else '200 OK',
        _JSON,
        _json({'healthy': not reasons, 'reasons': reasons}),
    )


def status_json(endpoint: 'Endpoint') -> Page:
    """Say all that `datastore status --json` says."""
    document = endpoint.report.document(endpoint.stations.clusters(), time.time())
    return Page('200 OK', _JSON, _json(document))


def metrics(endpoint: 'Endpoint') -> Page:
    """Say what has been counted, in Prometheus' format."""
    return Page('200 OK', METRICS_TYPE, endpoint.metrics_page.render())


PAGES: dict[str, Callable[['Endpoint'], Page]] = {
    '/healthz': healthz,
    '/status.json': status_json,
    '/metrics': metrics,
}

_NOT_FOUND = Page('404 Not Found', _TEXT, b'not found\n')


def is_asked_for(environ: dict[str, Any]) -> bool:
    """Return whether this is no upload but a request for one of the pages."""
    return (
        environ.get('REQUEST_METHOD') in ('GET', 'HEAD')
        and environ.get('PATH_INFO') in PAGES
    )


def answer(
    environ: dict[str, Any],
    start_response: Callable[..., Any],
    endpoint_of_process: Callable[[], 'Endpoint'],
) -> Iterable[bytes]:
    """Answer a request that `is_asked_for`."""
    page = _page(environ, endpoint_of_process)
    start_response(
        page.status,
        [
            ('Content-Type', page.content_type),
            ('Content-Length', str(len(page.body))),
            ('Cache-Control', 'no-store'),
        ],
    )
    return [] if environ['REQUEST_METHOD'] == 'HEAD' else [page.body]


def _page(
    environ: dict[str, Any], endpoint_of_process: Callable[[], 'Endpoint']
) -> Page:
    try:
        endpoint = endpoint_of_process()
    except ConfigError as error:
        # Who may know more is not known without a configuration.
        server_log.say(environ, str(error))
        return Page(
            '503 Service Unavailable',
            _TEXT,
            b'the configuration cannot be used, see the log\n',
        )
    if not _is_allowed(environ, endpoint.config):
        return _NOT_FOUND
    try:
        return PAGES[environ['PATH_INFO']](endpoint)
    except OSError as error:
        endpoint.logger.error('%s: %s', environ['PATH_INFO'], error)
        return Page('503 Service Unavailable', _TEXT, f'{error}\n'.encode())
    except Exception:
        # Nothing narrower: whatever it is, it is not to read as good health.
        endpoint.logger.exception('%s: internal error', environ['PATH_INFO'])
        return Page('500 Internal Server Error', _TEXT, b'see the log\n')


def _is_allowed(environ: dict[str, Any], config: Config) -> bool:
    if any(header in environ for header in _SIGNS_OF_A_PROXY):
        return False
    try:
        address = ip_address(environ.get('REMOTE_ADDR', ''))
    except ValueError:
        return False  # a unix socket, whose other end has no address
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # as a socket for both gives it
    return any(address in network for network in config.allow)


def _ailments(endpoint: 'Endpoint', now: float) -> list[str]:
    """Return why uploads are not taken, or not stored; empty if all is well."""
    reasons = []
    try:
        endpoint.pressure.check(0)
        endpoint.spool.check_writable()
    except TransactionFailed as error:
        reasons.append(f'uploads are answered {error.rcode}: {error}')
    except OSError as error:
        reasons.append(f'the spool cannot be written to: {error}')
    try:
        writer = writer_status(endpoint.config, now)
    except OSError as error:
        reasons.append(f'the heartbeat of the writer cannot be read: {error}')
    else:
        if writer['reason']:
            reasons.append(writer['reason'])
    # A change that went wrong shows before a restart does.
    if complaint := endpoint.stations.complaint():
        reasons.append(f'the station list cannot be used: {complaint}')
    elif not len(endpoint.stations):
        reasons.append(f'no station is listed in {endpoint.config.station_list}')
    return reasons


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode('ascii') + b'\n'
