"""Pages about the endpoint itself, for GET requests to their paths.

Uploads are POSTed to any path; a GET elsewhere is an upload that is none.
"""

import ipaddress
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Page(NamedTuple):
    """A body, and what it is."""

    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]  # by path


def is_status_page(environ: dict[str, Any], pages: Pages) -> bool:
    """Return whether a request is for one of the pages."""
    return environ.get('REQUEST_METHOD') == 'GET' and environ.get('PATH_INFO') in pages


def answer_page(
    environ: dict[str, Any], start_response: Callable[..., Any], pages: Pages
) -> list[bytes]:
    """Answer with the page that is asked for; 404 if the sender may not see it."""
    if not _may_ask(environ):
        return _respond(start_response, '404 Not Found', Page('text/plain', b''))
    try:
        page = pages[environ['PATH_INFO']]()
    except Exception:
        # Nothing narrower: whatever it is, it is not to look like an answer.
        environ['wsgi.errors'].write(traceback.format_exc())
        page = Page('text/plain', b'an error of its own, see the log of the server\n')
        return _respond(start_response, '500 Internal Server Error', page)
    return _respond(start_response, '200 OK', page)


def _may_ask(environ: dict[str, Any]) -> bool:
    """Return whether a request comes from this machine itself."""
    # Through a web server on this machine, everybody seems to.
    if 'HTTP_X_FORWARDED_FOR' in environ or 'HTTP_FORWARDED' in environ:
        return False
    try:
        return ipaddress.ip_address(environ.get('REMOTE_ADDR', '')).is_loopback
    except ValueError:
        return False


def _respond(
    start_response: Callable[..., Any], status: str, page: Page
) -> list[bytes]:
    content_type, body = page
    start_response(
        status, [('Content-Type', content_type), ('Content-Length', str(len(body)))]
    )
    return [body]
