"""Status pages are for this machine, and are no uploads."""

import io

import pytest

from wsgi.status_pages import Page, answer_page, is_status_page

PAGES = {'/page': lambda: Page('text/x', b'said')}


def get(path='/page', pages=PAGES, **environ):
    """Return the status, headers and body of the answer."""
    environ = {
        'REQUEST_METHOD': 'GET',
        'PATH_INFO': path,
        'REMOTE_ADDR': '127.0.0.1',
        'wsgi.errors': io.StringIO(),
    } | environ
    started = []
    body = answer_page(environ, lambda *arguments: started.append(arguments), pages)
    ((status, headers),) = started
    return status, dict(headers), b''.join(body)


@pytest.mark.parametrize(
    ('method', 'path', 'is_one'),
    [
        ('GET', '/page', True),
        ('POST', '/page', False),
        ('HEAD', '/page', False),
        ('GET', '/page/', False),
        ('GET', '/', False),
        ('GET', '', False),
    ],
)
def test_get_of_its_path_asks_for_a_page(method, path, is_one):
    environ = {'REQUEST_METHOD': method, 'PATH_INFO': path}

    assert is_status_page(environ, PAGES) == is_one


@pytest.mark.parametrize('address', ['127.0.0.1', '127.1.2.3', '::1'])
def test_page_is_answered_to_this_machine(address):
    assert get(REMOTE_ADDR=address) == (
        '200 OK',
        {'Content-Type': 'text/x', 'Content-Length': '4'},
        b'said',
    )


@pytest.mark.parametrize(
    'environ',
    [
        {'REMOTE_ADDR': '192.0.2.7'},
        {'REMOTE_ADDR': '::2'},
        {'REMOTE_ADDR': ''},
        {'REMOTE_ADDR': 'localhost'},
        {'HTTP_X_FORWARDED_FOR': '192.0.2.7'},
        {'HTTP_FORWARDED': 'for=192.0.2.7'},
    ],
    ids=str,
)
def test_page_is_not_there_for_others(environ):
    status, _, body = get(**environ)

    assert (status, body) == ('404 Not Found', b'')


def test_page_that_fails_answers_500_and_says_why_to_the_server():
    def fail():
        raise ZeroDivisionError('by mistake')

    errors = io.StringIO()

    status, _, body = get(pages={'/page': fail}, **{'wsgi.errors': errors})

    assert status == '500 Internal Server Error'
    assert b'mistake' not in body
    assert 'ZeroDivisionError: by mistake' in errors.getvalue()
