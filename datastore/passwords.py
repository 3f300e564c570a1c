"""Hashes stations' passwords, and makes new ones.

The station list holds a password as it is, or as the text
`scrypt$<n>$<r>$<p>$<salt>$<hash>`: the parameters of scrypt (RFC 7914) in
decimal, salt and hash in base64.  What was hashed is the password's UTF-8.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from typing import NamedTuple

PREFIX = 'scrypt$'

# 33 ms and 16 MiB on the machine this was measured on.
_N, _R, _P = 2**14, 8, 1
_SALT, _HASH = 16, 32  # bytes

# A hash that somebody else made is taken within these bounds: a worker is to
# verify it in the time and memory of a few of ours.
_MAX_MEMORY = 2**26  # bytes, of 128 n r
_MAX_WORK = 8 * _N * _R * _P  # of n r p

# Three times as many, as a form encodes them, fit the field of an upload.
MAX_PASSWORD = 256  # bytes of UTF-8

# To be read out over a telephone: no 0 and o, no 1, i and l.
_ALPHABET = 'abcdefghjkmnpqrstuvwxyz23456789'


class Hash(NamedTuple):
    """A password that was hashed, and how."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes


def is_hash(known: str) -> bool:
    """Return whether what the list holds is a hash, or means to be one."""
    return known.startswith(PREFIX)


def parse_hash(known: str) -> Hash:
    """Return the hash that a text of the station list stands for.

    Raises ValueError, which does not quote it, if it is malformed or would
    cost too much to verify.
    """
    match = re.fullmatch(
        r'scrypt\$([0-9]{1,9})\$([0-9]{1,9})\$([0-9]{1,9})\$([^$]+)\$([^$]+)', known
    )
    if not match:
        raise ValueError(f'is not of the form {PREFIX}n$r$p$salt$hash')
    n, r, p = (int(number) for number in match.groups()[:3])
    try:
        salt, digest = (
            base64.b64decode(text, validate=True) for text in match.groups()[3:]
        )
    except (binascii.Error, ValueError):
        raise ValueError('has a salt or a hash that is not base64') from None
    if n < 2 or n & (n - 1) or not r or not p:
        raise ValueError('has an n that is not a power of two, or an r or p of zero')
    if 128 * n * r > _MAX_MEMORY or n * r * p > _MAX_WORK:
        raise ValueError('costs too much to verify; use n=16384, r=8, p=1')
    if not 8 <= len(salt) <= 64 or not 16 <= len(digest) <= 64:
        raise ValueError('has a salt or a hash that is cut short or too long')
    return Hash(n, r, p, salt, digest)


def hash_password(password: str) -> str:
    """Return the text by which the station list holds a password, hashed."""
    salt = os.urandom(_SALT)
    digest = _scrypt(password.encode('utf-8'), Hash(_N, _R, _P, salt, bytes(_HASH)))
    fields = [base64.b64encode(field).decode('ascii') for field in (salt, digest)]
    return PREFIX + '$'.join([str(_N), str(_R), str(_P), *fields])


def matches(hashed: Hash, password: bytes) -> bool:
    """Return whether these bytes are the password; takes tens of milliseconds."""
    return hmac.compare_digest(_scrypt(password, hashed), hashed.digest)


def readings(uploaded: bytes) -> list[bytes]:
    """Return the UTF-8 of every text that uploaded bytes may stand for.

    Python 3 stations send UTF-8, Python 2 stations their own bytes, latin-1.
    """
    if uploaded.isascii():
        return [uploaded]
    as_latin_1 = uploaded.decode('latin-1').encode('utf-8')
    try:
        uploaded.decode('utf-8')
    except UnicodeDecodeError:
        return [as_latin_1]
    return [uploaded, as_latin_1]


def generate_password() -> str:
    """Return a new password of 79 random bits, such as `k3hd-7rwm-x2pc-jq9e`."""
    return '-'.join(
        ''.join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4)
    )


def check_password(password: str) -> None:
    """Raise ValueError if a password that is to be set is not fit to be one."""
    if not password:
        raise ValueError('the password is empty')
    if password != password.strip():
        raise ValueError('the password begins or ends with a space')
    if not password.isprintable():
        raise ValueError('the password holds a sign that cannot be printed')
    if len(password.encode('utf-8')) > MAX_PASSWORD:
        raise ValueError(f'the password is longer than {MAX_PASSWORD} bytes')
    if is_hash(password):
        # In the list it would be taken for what it looks like.
        raise ValueError(f'the password begins with {PREFIX}, as hashes do')


def _scrypt(password: bytes, hashed: Hash) -> bytes:
    return hashlib.scrypt(
        password,
        salt=hashed.salt,
        n=hashed.n,
        r=hashed.r,
        p=hashed.p,
        maxmem=2 * _MAX_MEMORY,
        dklen=len(hashed.digest),
    )
