"""A failure is news once a minute, and no failure goes uncounted."""

import pytest

from wsgi.repetition import Repeats, Repetition

START = 1_795_268_700.0  # s since the epoch


@pytest.fixture
def repetition(clock):
    clock.now = START
    return Repetition(clock)


def test_first_failure_is_to_be_said(repetition):
    assert repetition.failed('station 501', 203) == Repeats(0, None)


def test_failures_within_a_minute_are_only_counted(repetition, clock):
    repetition.failed('station 501', 203)
    for second in range(60):
        clock.now = START + second
        assert repetition.failed('station 501', 203) is None


def test_first_failure_after_a_minute_tells_how_many_there_were(repetition, clock):
    for _ in range(58):
        repetition.failed('station 501', 203)
    clock.now += 60

    assert repetition.failed('station 501', 203) == Repeats(58, START)


def test_minute_starts_again_when_the_count_is_said(repetition, clock):
    said = []
    for second in range(121):
        clock.now = START + second
        if repeats := repetition.failed('station 501', 203):
            said.append((second, repeats))

    assert said == [
        (0, Repeats(0, None)),
        (60, Repeats(60, START)),
        (120, Repeats(60, START + 60)),
    ]


def test_other_sender_and_other_failure_are_news_of_their_own(repetition):
    repetition.failed('station 501', 203)

    assert repetition.failed('station 502', 203) == Repeats(0, None)
    assert repetition.failed('station 501', 201) == Repeats(0, None)


def test_success_ends_the_runs_and_tells_what_was_counted(repetition, clock):
    for what in (201, 203, 203, 203):
        repetition.failed('station 501', what)
    repetition.failed('station 502', 203)
    clock.now += 5

    assert repetition.succeeded('station 501') == [(203, Repeats(2, START))]
    assert repetition.succeeded('station 501') == []
    assert repetition.failed('station 501', 203) == Repeats(0, None)
    assert repetition.failed('station 502', 203) is None


def test_clock_that_is_set_back_silences_nobody(repetition, clock):
    repetition.failed('station 501', 203)
    clock.now -= 3600

    assert repetition.failed('station 501', 203) == Repeats(1, START)


def test_senders_that_failed_longest_ago_are_forgotten(repetition):
    for number in range(1000):
        repetition.failed(number, 206)
    repetition.failed(0, 206)

    repetition.failed(1000, 206)

    assert repetition.failed(0, 206) is None
    assert repetition.failed(1, 206) == Repeats(0, None)
