"""A password is hashed so that it can be verified, and never read back."""

import base64
import hashlib
import re

import pytest

from datastore import passwords

SALT, DIGEST = (
    base64.b64encode(bytes(16)).decode(),
    base64.b64encode(bytes(32)).decode(),
)


def verify(hashed, uploaded):
    parsed = passwords.parse_hash(hashed)
    return [passwords.matches(parsed, each) for each in passwords.readings(uploaded)]


def test_hash_matches_its_password_and_no_other():
    hashed = passwords.hash_password('a secret')

    assert verify(hashed, b'a secret') == [True]
    assert verify(hashed, b'a Secret') == [False]


def test_hash_says_how_it_was_made_and_can_be_made_with_any_scrypt():
    hashed = passwords.hash_password('pässwörd')

    scrypt, n, r, p, salt, digest = hashed.split('$')
    assert (scrypt, n, r, p) == ('scrypt', '16384', '8', '1')
    assert base64.b64decode(digest) == hashlib.scrypt(
        'pässwörd'.encode(), salt=base64.b64decode(salt), n=2**14, r=8, p=1, dklen=32
    )


def test_same_password_is_hashed_differently_each_time():
    assert passwords.hash_password('x') != passwords.hash_password('x')


@pytest.mark.parametrize(
    ('uploaded', 'texts'),
    [
        pytest.param(b'abc', ['abc'], id='ASCII'),
        pytest.param('pä'.encode(), ['pä', 'pÃ¤'], id='UTF-8'),
        pytest.param('pä'.encode('latin-1'), ['pä'], id='latin-1'),
        pytest.param('пароль'.encode(), None, id='Cyrillic'),
        pytest.param(b'', [''], id='empty'),
    ],
)
def test_uploaded_bytes_are_read_as_utf_8_and_as_latin_1(uploaded, texts):
    texts = texts or ['пароль', 'пароль'.encode().decode('latin-1')]

    assert passwords.readings(uploaded) == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ('hashed', 'reason'),
    [
        ('scrypt$', 'form'),
        ('scrypt$16384$8$1$abc', 'form'),
        (f'scrypt$16384$8$1${SALT}${DIGEST}$', 'form'),
        (f'scrypt$+16384$8$1${SALT}${DIGEST}', 'form'),
        (f'scrypt$16384$8$1$!{SALT}${DIGEST}', 'base64'),
        (f'scrypt$16384$8$1${SALT}x${DIGEST}', 'base64'),
        (
            f'scrypt$16384$8$1${SALT}${DIGEST}\N{LATIN SMALL LETTER E WITH ACUTE}',
            'base',
        ),
        (f'scrypt$16383$8$1${SALT}${DIGEST}', 'power of two'),
        (f'scrypt$0$8$1${SALT}${DIGEST}', 'power of two'),
        (f'scrypt$16384$0$1${SALT}${DIGEST}', 'zero'),
        (f'scrypt$16384$8$0${SALT}${DIGEST}', 'zero'),
        (f'scrypt$1048576$8$1${SALT}${DIGEST}', 'costs too much'),
        # Too much time, and too much memory.
        (f'scrypt$16384$8$9${SALT}${DIGEST}', 'costs too much'),
        (f'scrypt$131072$8$1${SALT}${DIGEST}', 'costs too much'),
        (f'scrypt$16384$8$1$YWJj${DIGEST}', 'cut short'),
        (f'scrypt$16384$8$1${SALT}$YWJj', 'cut short'),
    ],
)
def test_malformed_hash_is_refused(hashed, reason):
    with pytest.raises(ValueError, match=reason):
        passwords.parse_hash(hashed)


def test_hashes_of_others_are_taken_within_bounds():
    parsed = passwords.parse_hash(f'scrypt$65536$8$1${SALT}${DIGEST}')

    assert parsed == (65536, 8, 1, bytes(16), bytes(32))


def test_generated_passwords_differ_and_are_fit_to_be_set():
    made = {passwords.generate_password() for _ in range(50)}

    assert len(made) == 50
    for password in made:
        passwords.check_password(password)
        assert re.fullmatch('([a-hjkmnp-z2-9]{4}-){3}[a-hjkmnp-z2-9]{4}', password)


@pytest.mark.parametrize('password', ['x', 'two words', 'a,"b"', 'pässwörd', 256 * 'x'])
def test_password_may_hold_whatever_can_be_printed(password):
    passwords.check_password(password)


@pytest.mark.parametrize(
    ('password', 'reason'),
    [
        ('', 'empty'),
        (' x', 'space'),
        ('x ', 'space'),
        ('a\nb', 'printed'),
        ('a\0b', 'printed'),
        (129 * 'é', '256 bytes'),
        ('scrypt$x', 'as hashes do'),
        (f'scrypt$16384$8$1${SALT}${DIGEST}', 'as hashes do'),
    ],
)
def test_password_that_cannot_be_listed_is_refused(password, reason):
    with pytest.raises(ValueError, match=reason):
        passwords.check_password(password)
