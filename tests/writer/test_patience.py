from types import SimpleNamespace

import pytest

from writer.patience import Patience


@pytest.fixture
def clock():
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def patience(clock):
    return Patience(lambda: clock.now)


def test_what_never_failed_is_due(patience):
    assert patience.is_due('a')


def test_pauses_double_up_to_five_minutes(patience):
    pauses = [patience.failed('a') for _ in range(12)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_what_failed_is_due_after_its_pause(patience, clock):
    patience.failed('a')
    pause = patience.failed('a')
    clock.now += pause - 0.5
    assert not patience.is_due('a')
    clock.now += 0.5
    assert patience.is_due('a')


def test_success_ends_the_pauses(patience):
    patience.failed('a')
    patience.failed('a')
    patience.succeeded('a')
    assert patience.is_due('a')
    assert patience.failed('a') == 1


def test_each_thing_is_counted_by_itself(patience):
    patience.failed('a')
    assert patience.is_due('b')
    assert patience.failed('b') == 1
