"""A hashed password is verified once, and guessing at it costs us little."""

import pytest

from datastore import passwords
from wsgi import hashed_passwords
from wsgi.hashed_passwords import HashedPasswords, TooManyGuesses
from wsgi.rcodes import TransactionFailed

RIGHT = b'a secret'
KNOWN, OTHER = 'scrypt$...a secret', 'scrypt$...another'


@pytest.fixture
def verified(monkeypatch):
    """The passwords that were verified, by a hash that costs nothing."""
    verified = []

    def matches(hashed, password):
        verified.append(password)
        return hashed == f'scrypt$...{password.decode()}'

    monkeypatch.setattr(passwords, 'parse_hash', lambda known: known)
    monkeypatch.setattr(passwords, 'matches', matches)
    return verified


@pytest.fixture
def hashed(clock, verified):
    clock.now = 1000.0
    return HashedPasswords(clock)


@pytest.fixture
def flood(hashed):
    """Guess until a guess is put off; return the number of the guesses."""

    def flood(known=KNOWN, prefix=b'guess'):
        for number in range(1000):
            try:
                hashed.match(known, prefix + b'%d' % number)
            except TooManyGuesses:
                return number
        raise AssertionError('guessing is not bounded')

    return flood


@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1'])
def test_hash_matches_its_password_as_stations_encode_it(encoding):
    hashed = HashedPasswords()
    known = passwords.hash_password('pässwörd')

    assert hashed.match(known, 'pässwörd'.encode(encoding))
    assert not hashed.match(known, b'passwoerd')


def test_right_password_is_verified_once(hashed, verified):
    assert [hashed.match(KNOWN, RIGHT) for _ in range(5)] == [True] * 5

    assert verified == [RIGHT]


def test_both_encodings_of_a_password_stay_known(hashed, verified):
    known = 'scrypt$...é'
    for _ in range(3):
        assert hashed.match(known, 'é'.encode())
        assert hashed.match(known, 'é'.encode('latin-1'))

    assert len(verified) == 2


def test_wrong_password_is_verified_once(hashed, verified, clock):
    for _ in range(1000):
        clock.now += 0.4
        assert not hashed.match(KNOWN, b'wrong')

    assert verified == [b'wrong']


def test_password_that_is_right_for_one_hash_is_wrong_for_another(hashed):
    assert hashed.match(KNOWN, RIGHT)
    assert not hashed.match(OTHER, RIGHT)


def test_guesses_are_bounded_and_the_bound_grows_with_time(hashed, flood, clock):
    assert flood() == 20
    assert flood(prefix=b'again') == 0

    clock.now += 3
    assert flood(prefix=b'later') == 6


def test_guess_in_two_readings_counts_twice(hashed, flood, verified):
    # Both are verified: it may be UTF-8 or latin-1.
    assert flood(prefix='é'.encode()) == 10
    assert len(verified) == 20


def test_guess_that_is_put_off_is_answered_to_try_again(hashed, flood):
    flood()

    with pytest.raises(TransactionFailed, match='cannot be verified now'):
        hashed.match(KNOWN, b'one more')


def test_right_password_that_is_known_is_let_in_during_a_flood(hashed, flood):
    hashed.match(KNOWN, RIGHT)
    flood()

    assert hashed.match(KNOWN, RIGHT)


def test_right_password_that_is_new_is_let_in_the_second_time(hashed, flood):
    flood()

    with pytest.raises(TooManyGuesses):
        hashed.match(KNOWN, RIGHT)
    flood(prefix=b'more of them')
    assert hashed.match(KNOWN, RIGHT)


def test_password_that_is_verified_is_not_remembered_as_put_off(hashed, flood):
    flood()
    with pytest.raises(TooManyGuesses):
        hashed.match(KNOWN, RIGHT)
    put_off = len(hashed._put_off)

    hashed.match(KNOWN, RIGHT)

    assert len(hashed._put_off) == put_off - 1


def test_guesses_that_are_repeated_are_bounded_too(hashed, verified, flood):
    flood()
    for _ in range(3):
        for number in range(100):
            try:
                hashed.match(KNOWN, b'twice %d' % number)
            except TooManyGuesses:
                continue

    assert len(verified) == 40


def test_right_passwords_count_towards_no_bound(hashed, clock):
    everybody = [(f'scrypt$...{n}', b'%d' % n) for n in range(200)]

    assert all(hashed.match(known, password) for known, password in everybody)


def test_known_wrong_password_is_refused_during_a_flood(hashed, flood):
    hashed.match(KNOWN, b'wrong')
    flood()

    assert hashed.match(KNOWN, b'wrong') is False


def test_memory_is_bounded_and_keeps_what_is_used(hashed, verified, clock, monkeypatch):
    monkeypatch.setattr(hashed_passwords, '_MAX_WRONG', 10)
    monkeypatch.setattr(hashed_passwords, '_MAX_PUT_OFF', 10)
    for number in range(100):
        clock.now += 1
        hashed.match(KNOWN, b'the same')
        hashed.match(KNOWN, b'%d' % number)

    assert verified.count(b'the same') == 1
    assert len(hashed._wrong) == 10
    for number in range(100):
        with pytest.raises(TooManyGuesses):
            for again in range(100):
                hashed.match(KNOWN, b'put off %d %d' % (number, again))
    assert len(hashed._put_off) == 10


def test_what_was_known_of_a_hash_goes_with_it(hashed, verified):
    for known in (KNOWN, OTHER):
        hashed.match(known, RIGHT)
    verified.clear()

    hashed.forget_others([KNOWN])
    for known in (KNOWN, OTHER):
        hashed.match(known, RIGHT)

    assert verified == [RIGHT]  # for OTHER


def test_password_itself_is_not_remembered(hashed):
    hashed.match(KNOWN, RIGHT)
    hashed.match(OTHER, b'not the secret')

    assert 'secret' not in repr([hashed._right, hashed._wrong]).replace(KNOWN, '')
