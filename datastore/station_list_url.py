"""Fetches the station list from a URL; the file that is read is a copy.

The copy is replaced at once, and only by a list that is whole and good, so
that both programs start and go on without a network.  Beside it, as
`<station_list>.fetched`, stands what the server said about it, for asking
whether it changed (RFC 9110, section 13.1: If-None-Match, If-Modified-Since).

With the standard library: it trusts the authorities that this machine trusts,
and what is wanted of a client, bounds, a deadline, few redirects, would have
to be built around any other too.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urljoin, urlsplit

import datastore
from datastore import durable, station_list
from datastore.config import (
    Config,
    ConfigError,
    is_loopback,
    secure_url,
    shown_url,
)
from datastore.station_list import Changes, Station

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_PIECE = 2**16  # bytes

# What is sent back in a header; servers send some tens of bytes.
_MAX_VALIDATOR = 1024


class FetchError(Exception):
    """The list could not be fetched, or is refused; one line says why."""


class StationListUrl:
    """The URL that a configuration names."""

    def __init__(
        self, config: Config, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ConfigError if there is no URL, or ca_file cannot be used."""
        if config.url is None:
            raise ConfigError(f'{config.path}: no url in [Stations] to fetch from')
        self.shown = shown_url(config.url)
        self._url = config.url
        # What tells it from another URL, and does not tell a key in it.
        resource = _resource(config.url).encode('ascii')
        self._about = hashlib.sha256(resource).hexdigest()
        self._path = config.station_list
        self._timeout = config.timeout
        self._clock = clock
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        handlers.append(urllib.request.HTTPSHandler(context=_tls(config)))
        if is_loopback(urlsplit(config.url).hostname or ''):
            # A proxy would look for it on its own machine.
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def fetch(self, force: bool = False) -> Changes:
        """Fetch the list and replace the copy; return what that changed.

        Raises FetchError, and leaves the copy, if there is no answer, or not
        a good list in it.  Unless with `force`, a list that lacks more than
        half of the stations is not good.
        """
        try:
            return self._fetch(force)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # What the network says, and what the disk says of the copy.
            reason = error.reason if isinstance(error, URLError) else error
            text = ' '.join(str(reason).split()) or type(reason).__name__
            raise FetchError(f'{self.shown}: {text}') from error

    def _fetch(self, force: bool) -> Changes:
        validators = self._validators()
        response = self._open(validators)
        if response is None:
            return Changes([], [], [])
        with response:
            content = self._body(response)
            headers = response.headers
        with station_list.locked(self._path) as path:
            before = path.read_bytes() if path.exists() else b''
            known = station_list.parse(before).stations
            fetched = self._good(content, known, force)
            if content != before:
                station_list.replace(path, content)
            # A crash before this leaves a copy with the answers about another
            # one: its digest shows it, and the next fetch asks for all of it.
            self._remember(path, content, headers)
        return station_list.changes(known, fetched)

    def _open(self, validators: dict[str, str]) -> http.client.HTTPResponse | None:
        """Return the answer, its body unread, or None if nothing changed."""
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            request = self._request(url, validators)
            try:
                response = self._opener.open(request, timeout=self._timeout)
            except HTTPError as error:
                with error:
                    if error.code == 304 and validators:
                        return None
                    if error.code not in _REDIRECTS:
                        raise FetchError(
                            f'{self.shown} answers {error.code} {error.reason}'
                        ) from error
                    target = urljoin(url, error.headers.get('Location', ''))
                try:
                    url = secure_url(target)
                except ValueError as reason:
                    raise FetchError(
                        f'{self.shown} redirects to {shown_url(target)!r:.200}, '
                        f'which {reason}'
                    ) from None
                continue
            if response.status != 200:
                response.close()
                raise FetchError(f'{self.shown} answers {response.status}')
            return response
        raise FetchError(f'{self.shown} redirects more than {_MAX_REDIRECTS} times')

    def _request(self, url: str, validators: dict[str, str]) -> urllib.request.Request:
        headers = {'User-Agent': f'hisparc-datastore/{datastore.__version__}'}
        parts, asked = urlsplit(url), urlsplit(self._url)
        # The password in the URL is for its server, not for where that points.
        same = (parts.scheme, parts.hostname, parts.port) == (
            asked.scheme,
            asked.hostname,
            asked.port,
        )
        if same and asked.username is not None:
            user = f'{unquote(asked.username)}:{unquote(asked.password or "")}'
            encoded = base64.b64encode(user.encode('utf-8')).decode('ascii')
            headers['Authorization'] = f'Basic {encoded}'
        return urllib.request.Request(_resource(url), headers=headers | validators)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        """Return the whole body, within a bounded size and time."""
        if response.headers.get('Content-Encoding', 'identity') != 'identity':
            raise FetchError(f'{self.shown} sends it compressed, which was not asked')
        if response.length is None and not response.chunked:
            # Cut short it would look like a whole one.
            raise FetchError(f'{self.shown} does not say how long the list is')
        deadline = self._clock() + self._timeout
        pieces = []
        size = 0
        while piece := response.read1(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > station_list.MAX_SIZE:
                raise FetchError(
                    f'{self.shown} sends more than {station_list.MAX_SIZE} bytes'
                )
            if self._clock() > deadline:
                raise FetchError(
                    f'{self.shown} takes longer than {self._timeout:g} s to send it'
                )
        if response.length:
            raise FetchError(f'{self.shown} breaks off after {size} bytes')
        return b''.join(pieces)

    def _good(
        self, content: bytes, known: dict[int, Station], force: bool
    ) -> dict[int, Station]:
        """Return the stations of what was fetched; raises FetchError."""
        stations, _, faults = station_list.parse(content)
        if faults:
            line, reason = faults[0]
            raise FetchError(f'{self.shown}, line {line} of what it sends: {reason}')
        if not stations:
            raise FetchError(f'{self.shown} sends a list without stations')
        dropped = len(known.keys() - stations.keys())
        if 2 * dropped > len(known) and not force:
            raise FetchError(
                f'{self.shown} sends a list without {dropped} of the {len(known)} '
                'stations of before; if that is meant: datastore stations fetch --force'
            )
        return stations

    def _validators(self) -> dict[str, str]:
        """Return the headers that ask whether the copy is still what there is.

        None if that is not known of the copy: it is not there, was edited, or
        came from elsewhere.
        """
        path = self._path.resolve()
        try:
            said = json.loads(_said_path(path).read_bytes())
            content = path.read_bytes()
        except (OSError, ValueError):
            return {}
        if (
            not isinstance(said, dict)
            or said.get('url') != self._about
            or said.get('sha256') != hashlib.sha256(content).hexdigest()
        ):
            return {}
        asked = {
            'If-None-Match': said.get('etag'),
            'If-Modified-Since': said.get('last_modified'),
        }
        return {name: text for name, text in asked.items() if isinstance(text, str)}

    def _remember(self, path: Path, content: bytes, headers: Any) -> None:
        said = {'url': self._about, 'sha256': hashlib.sha256(content).hexdigest()}
        for key, name in (('etag', 'ETag'), ('last_modified', 'Last-Modified')):
            text = headers.get(name, '')
            if 0 < len(text) <= _MAX_VALIDATOR:
                said[key] = text
        encoded = json.dumps(said, indent=1).encode('ascii') + b'\n'
        said_path = _said_path(path)
        with contextlib.suppress(OSError):
            if said_path.read_bytes() == encoded:
                return
        durable.put(said_path, encoded, said_path.parent)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to us: where they lead has to be looked at."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _resource(url: str) -> str:
    """Return the URL without user and password, which go into a header."""
    parts = urlsplit(url)
    _, _, host = parts.netloc.rpartition('@')
    return parts._replace(netloc=host, fragment='').geturl()


def _said_path(path: Path) -> Path:
    return path.with_name(f'{path.name}.fetched')


def _tls(config: Config) -> ssl.SSLContext:
    """Return what decides which servers are trusted; verifies, by default."""
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f'{config.path}: ca_file in [Stations]: {config.ca_file}: '
            f'{error.strerror or error}'
        ) from error
