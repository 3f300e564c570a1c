"""A POST becomes an `Upload` whose data is what the station took the md5 of."""

import hashlib
import io
import re
from urllib.parse import quote_from_bytes, quote_plus, unquote_to_bytes, urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi.rcodes import ChecksumMismatch, InvalidPost
from wsgi.upload import Upload, _decode, _decode_data, read_upload, verified_data

BODY = b'station_id=510&password=secret&data=abc&checksum=0123'
FIELDS = {'station_id': '510', 'password': 'secret', 'data': 'abc', 'checksum': '0123'}
MAX_UPLOAD = 1000

FIVE = '\N{ARABIC-INDIC DIGIT FIVE}'


class Body(io.BytesIO):
    """A body that counts what is read of it, as a connection would."""

    def __init__(self, content):
        super().__init__(content)
        self.most_at_once = 0

    def read(self, size=-1):
        assert size >= 0, 'reads until the sender closes the connection'
        self.most_at_once = max(self.most_at_once, size)
        return super().read(size)


class BrokenBody:
    """A body whose sender goes away after the first piece."""

    def __init__(self):
        self.reads = 0

    def read(self, size):
        self.reads += 1
        if self.reads > 1:
            raise OSError('timed out')
        return b'x' * size


def environ_of(body, **changed):
    """Return the environ of a POST, some of it changed, or None for missing."""
    content = body if isinstance(body, bytes) else b''
    environ = {
        'REQUEST_METHOD': 'POST',
        'CONTENT_LENGTH': str(len(content)),
        'wsgi.input': Body(content) if isinstance(body, bytes) else body,
    } | changed
    return {key: value for key, value in environ.items() if value is not None}


def read(body, **changed):
    return read_upload(environ_of(body, **changed), MAX_UPLOAD)


def complaint(body, **changed):
    with pytest.raises(InvalidPost) as error_info:
        read(body, **changed)
    return str(error_info.value)


def form(**changed):
    """Return the body of a good form, some fields changed, or None for missing."""
    fields = FIELDS | changed
    return urlencode({k: v for k, v in fields.items() if v is not None}).encode()


# The request.


def test_fields_of_the_form_are_the_upload():
    assert read(BODY) == Upload(510, b'secret', b'abc', '0123')


def test_no_more_than_the_declared_length_is_read():
    environ = environ_of(BODY + b'GET / HTTP/1.1', CONTENT_LENGTH=str(len(BODY)))

    read_upload(environ, MAX_UPLOAD)

    assert environ['wsgi.input'].read(99) == b'GET / HTTP/1.1'


@pytest.mark.parametrize('method', ['GET', 'HEAD', 'PUT', 'post'])
def test_other_methods_are_refused(method):
    assert complaint(BODY, REQUEST_METHOD=method) == f'{method} instead of POST'


def test_long_method_is_quoted_in_part():
    assert len(complaint(BODY, REQUEST_METHOD='X' * 1000)) < 40


@pytest.mark.parametrize(
    'length', [None, '', '-1', '+5', '5.0', '5 ', '0x5', 'five', FIVE, '9' * 16]
)
def test_body_of_no_length_is_refused_unread(length):
    environ = environ_of(BODY, CONTENT_LENGTH=length)

    with pytest.raises(InvalidPost, match='length of the body'):
        read_upload(environ, MAX_UPLOAD)

    assert environ['wsgi.input'].tell() == 0


def test_body_of_the_largest_size_is_taken():
    body = form(data='x' * 100)

    assert (
        read_upload(environ_of(body), max_upload=len(body)).encoded_data == b'x' * 100
    )


def test_body_over_the_largest_size_is_read_away_and_refused():
    body = b'x' * 300_000
    environ = environ_of(body)

    with pytest.raises(InvalidPost, match='300000 bytes is over 1000'):
        read_upload(environ, MAX_UPLOAD)

    assert environ['wsgi.input'].tell() == len(body)
    assert environ['wsgi.input'].most_at_once == 2**16


def test_body_far_over_the_largest_size_is_cut_off():
    class Endless:
        taken = 0

        def read(self, size):
            self.taken += size
            return bytes(size)

    body = Endless()

    complaint(body, CONTENT_LENGTH='9' * 15)

    assert body.taken == 2**26


def test_body_over_the_largest_size_whose_sender_goes_away_is_refused():
    for body in (Body(b'short'), BrokenBody()):
        assert 'over 1000' in complaint(body, CONTENT_LENGTH='100000000')


def test_body_that_ends_early_is_refused():
    said = complaint(BODY, CONTENT_LENGTH=str(len(BODY) + 1))

    assert said == f'the body ends after {len(BODY)} of {len(BODY) + 1} bytes'


def test_body_that_breaks_off_is_refused():
    body = BrokenBody()
    body.read(1)

    assert complaint(body, CONTENT_LENGTH='100') == (
        'the body cannot be read: timed out'
    )


# The form.


@pytest.mark.parametrize('field', FIELDS)
def test_missing_field_is_named(field):
    assert complaint(form(**{field: None})) == f'field {field} is missing'


@pytest.mark.parametrize('field', FIELDS)
def test_field_without_an_equal_sign_is_missing(field):
    body = form(**{field: None}) + f'&{field}'.encode()

    assert complaint(body) == f'field {field} is missing'


@pytest.mark.parametrize('field', FIELDS)
def test_field_that_is_sent_twice_is_refused(field):
    body = form() + f'&{field}=510'.encode()

    assert complaint(body) == f'field {field} is sent more than once'


def test_empty_body_lacks_every_field():
    assert complaint(b'') == 'field station_id is missing'


def test_refusal_of_a_form_quotes_no_password():
    for field in FIELDS.keys() - {'password'}:
        assert 'secret' not in complaint(form(**{field: None}))
    assert 'secret' not in complaint(form() + b'&password=secret2')


@pytest.mark.parametrize(
    'station_id',
    ['', '-1', '+1', ' 1', '1 ', '1_0', '1.0', '0x1', 'x', FIVE, '1\n', '1' * 11],
)
def test_station_id_that_is_not_a_number_is_refused(station_id):
    assert 'station_id is b' in complaint(form(station_id=station_id))


def test_long_station_id_is_quoted_in_part():
    assert len(complaint(form(station_id='x' * 500))) < 80


@pytest.mark.parametrize(
    ('station_id', 'number'), [('0', 0), ('0510', 510), ('9999999999', 9_999_999_999)]
)
def test_station_id_is_a_number_of_up_to_ten_digits(station_id, number):
    assert read(form(station_id=station_id)).station_id == number


@pytest.mark.parametrize(
    'body',
    [
        pytest.param(
            b'checksum=0123&data=abc&password=secret&station_id=510', id='order'
        ),
        pytest.param(BODY + b'&more=1&more=2', id='unknown fields'),
        pytest.param(b'&&' + BODY + b'&', id='empty fields'),
        pytest.param(BODY.replace(b'data', b'd%61ta'), id='escaped name'),
        pytest.param(BODY.replace(b'secret', b'%73ecret'), id='escaped value'),
        pytest.param(
            BODY.replace(b'password', b'pass%77ord'), id='escape in lower case'
        ),
    ],
)
def test_form_may_be_written_in_several_ways(body):
    assert read(body) == read(BODY)


def test_fields_but_the_station_may_be_empty():
    assert read(form(password='', data='', checksum='')) == Upload(510, b'', b'', '')


def test_values_keep_every_byte():
    data = bytes(range(256))

    upload = read(
        b'station_id=510&password=a%26b%3D+c%2B&checksum=&data='
        + quote_plus(data).encode()
    )

    assert _decode_data(upload.encoded_data) == data
    assert upload.password == b'a&b= c+'


def test_value_may_hold_equal_signs():
    assert read(form(data=None) + b'&data=YWJj==').encoded_data == b'YWJj=='


# What is an escape, and what only looks like one.
encoded = st.lists(
    st.sampled_from(
        [b'%', b'=', b'+', b'%4', b'%41', b'%aF', b'%0A', b'%0d%0a', b'%3d']
    )
    | st.binary(max_size=3)
).map(b''.join)


@settings(deadline=None, max_examples=500)
@given(encoded)
@example(b'=\n')
@example(b'=\r\nx%41')
@example(b' \n%41 \t\n')
@example(b'%%41')
@example(b'%=41')
@example(b'%41_%5F')
@example(b'%\xff\xff%41')
def test_decoding_a_field_is_that_of_urllib(encoded):
    expected = unquote_to_bytes(encoded.replace(b'+', b' '))
    assert _decode(encoded, 'password') == expected
    if not re.search(rb'%(?![0-9A-Fa-f]{2})', encoded):
        assert _decode_data(encoded) == expected


@given(st.binary(max_size=100))
def test_decoding_data_is_that_of_urllib_for_whatever_is_escaped(data):
    assert _decode_data(quote_from_bytes(data, safe='').encode()) == data
    assert _decode_data(urlencode({'': data}).encode()[1:]) == data


def test_data_with_a_percent_sign_that_escapes_nothing_is_a_broken_form():
    with pytest.raises(InvalidPost, match='a % that escapes nothing'):
        verified_data(Upload(510, b'', b'50%', md5(b'50%')))


@pytest.mark.parametrize(
    ('body', 'reason'),
    [
        pytest.param(b'&' * 10**6, 'more than 16 fields', id='a million fields'),
        pytest.param(
            b'%x&' * 10**6, 'more than 16 fields', id='a million broken fields'
        ),
        pytest.param(
            b'&'.join([BODY, *(b'n%d=1' % n for n in range(13))]),
            'the form has more than 16 fields',
            id='a field too many',
        ),
        pytest.param(
            BODY + b'&' + b'%61' * 342 + b'=1',
            'the name of a field is longer than 1024 bytes',
            id='long name',
        ),
        pytest.param(
            BODY.replace(b'secret', b'%61' * 342),
            'password is longer than 1024 bytes',
            id='long password',
        ),
    ],
)
def test_form_that_would_take_long_to_take_apart_is_refused_before(body, reason):
    with pytest.raises(InvalidPost, match=reason):
        read_upload(environ_of(body), max_upload=len(body))


def test_form_may_have_a_few_more_fields_and_long_ones():
    body = BODY.replace(b'secret', b'%61' * 341)
    body += b''.join(b'&n%d=1' % n for n in range(11))

    assert read_upload(environ_of(body + b'&' + b'x' * 1024), 10**4) == Upload(
        510, b'a' * 341, b'abc', '0123'
    )


# The checksum.


def md5(data):
    return hashlib.md5(data).hexdigest()


def upload_of(data, checksum):
    return Upload(510, b'secret', quote_from_bytes(data).encode(), checksum)


@settings(deadline=None)
@given(st.binary())
@example(b'')
@example('sécret'.encode())
@example('sécret'.encode('latin-1'))
def test_data_of_either_python_is_what_its_checksum_says(data):
    as_bytes = upload_of(data, md5(data))
    as_text = upload_of(data.decode('latin-1').encode('utf-8'), md5(data))

    assert verified_data(as_bytes) == verified_data(as_text) == data


@pytest.mark.parametrize(
    'write', [str.upper, '  {}\r\n'.format], ids=['upper case', 'spaces']
)
def test_checksum_may_be_written_in_several_ways(write):
    assert verified_data(upload_of(b'abc', write(md5(b'abc')))) == b'abc'


@pytest.mark.parametrize(
    ('data', 'checksum'),
    [
        pytest.param(b'abc', md5(b'abd'), id='of other data'),
        pytest.param(b'abc', '', id='empty'),
        pytest.param(b'abc', md5(b'abc')[:-1], id='truncated'),
        pytest.param(b'abc', md5(b'abc') + '0', id='too long'),
        pytest.param(b'abc', '\xe9', id='not ASCII'),
        pytest.param(b'\xff\xfe', md5(b''), id='data not UTF-8'),
        pytest.param('€'.encode(), md5(b'\x80'), id='data beyond latin-1'),
    ],
)
def test_data_of_another_checksum_is_refused(data, checksum):
    with pytest.raises(ChecksumMismatch):
        verified_data(upload_of(data, checksum))
