"""Says whether a password is the one that was hashed, and spends little on it.

Verifying takes 33 ms and 16 MiB, and a station uploads every few seconds.  So
what was found out is remembered, by a digest under a key that this process
made up: it is of no use to whoever finds it, in a core dump or elsewhere.

Who sends wrong passwords must not be able to keep the workers busy:

- A wrong password is remembered too, so that a station that was given a wrong
  one, and sends it for ever, costs one verification.
- Different wrong ones, as somebody sends who guesses, are bounded in number.
  Right ones are not counted: after a restart all stations may come at once,
  and each costs a worker one verification.
- Beyond the bound a password that is not known to be right or wrong is put
  off, and the answer is 205, try again, never 203, because it may be right.
  A right one that was verified before is not concerned at all.
- A station sends its password again, who guesses has no reason to.  So a
  password that was put off and comes again has a bound of its own, which
  first guesses do not use up: a station that comes for the first time in the
  middle of a flood is let in when it tries again.

Somebody who knows all this and sends every guess twice can put off stations
that no worker has verified since it was started, as long as it goes on.  They
keep their events meanwhile; a limit in the web server, or a password that is
not hashed, which costs nothing to compare, is the way out.
"""

import hashlib
import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from datastore import passwords
from wsgi.rcodes import TransactionFailed

# Wrong passwords that are verified, in each of the two bounds: a few at once,
# and then as many a second; together an eighth of a worker's time.
_GUESSES_AT_ONCE = 20
_GUESSES = 2.0  # 1/s

# Some 250 bytes each.
_MAX_WRONG = 4096
_MAX_PUT_OFF = 16384

# A password is right in at most two readings, UTF-8 and latin-1.
_MAX_RIGHT = 2


class TooManyGuesses(TransactionFailed):
    """Whether the password is right cannot be found out now; a retry may."""


class HashedPasswords:
    """Remembers which passwords match which hashes of the station list."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = os.urandom(32)
        self._right: dict[str, tuple[bytes, ...]] = {}
        self._wrong: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._put_off: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._new = _Allowance(clock)
        self._repeated = _Allowance(clock)
        # Held while these change, not while a password is verified.
        self._lock = threading.Lock()

    def match(self, known: str, password: bytes) -> bool:
        """Return whether an uploaded password is the one hashed as `known`.

        Raises TooManyGuesses if it was not seen before, and too many wrong
        ones were just now.
        """
        digest = self._digest(password)
        for right in self._right.get(known, ()):
            if hmac.compare_digest(digest, right):
                return True
        with self._lock:
            if (known, digest) in self._wrong:
                # So that guesses drive out guesses, and not this one.
                self._wrong.move_to_end((known, digest))
                return False
            allowance = self._allowance(known, digest)
        hashed = passwords.parse_hash(known)
        readings = passwords.readings(password)
        is_right = any(passwords.matches(hashed, each) for each in readings)
        with self._lock:
            self._put_off.pop((known, digest), None)
            if is_right:
                others = [each for each in self._right.get(known, ()) if each != digest]
                self._right[known] = (*others[1 - _MAX_RIGHT :], digest)
            else:
                allowance.take(len(readings))
                _remember(self._wrong, (known, digest), _MAX_WRONG)
        return is_right

    def forget_others(self, known: Iterable[str]) -> None:
        """Forget what is not about one of these hashes: the list has changed."""
        known = set(known)
        with self._lock:
            self._right = {k: right for k, right in self._right.items() if k in known}
            for remembered in (self._wrong, self._put_off):
                for entry in [each for each in remembered if each[0] not in known]:
                    del remembered[entry]

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key, digest_size=16).digest()

    def _allowance(self, known: str, digest: bytes) -> '_Allowance':
        """Return the bound that a verification counts against, if it is wrong."""
        if self._new.is_left():
            return self._new
        if (known, digest) in self._put_off and self._repeated.is_left():
            return self._repeated
        _remember(self._put_off, (known, digest), _MAX_PUT_OFF)
        raise TooManyGuesses(
            'the password cannot be verified now, too many wrong ones are sent'
        )


class _Allowance:
    """Some wrong passwords at once, and then so many a second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = float(_GUESSES_AT_ONCE)
        self._counted = clock()

    def is_left(self) -> bool:
        now = self._clock()
        grown = self._left + (now - self._counted) * _GUESSES
        self._left = min(grown, _GUESSES_AT_ONCE)
        self._counted = now
        return self._left >= 1

    def take(self, guesses: int) -> None:
        self._left -= guesses


def _remember(
    entries: OrderedDict[tuple[str, bytes], None], entry: tuple[str, bytes], most: int
) -> None:
    """Remember one more, and forget the one that was not used for longest."""
    entries[entry] = None
    entries.move_to_end(entry)
    while len(entries) > most:
        entries.popitem(last=False)
