"""Events of many batches become rows once, however they are handed over."""

import numpy as np
import pytest
from support import event_digests

from datastore.event import Event
from writer import collected
from writer.collected import Collected
from writer.digests import DIGEST_SIZE, DigestIndex
from writer.rows import rows_and_blobs


def comparator(number):
    """Make an event without blobs."""
    return Event('CMP', number, 0, 0, ('CMP_DEVICE',), (number % 100,))


def error(number):
    """Make an event with a blob, and every third with two codes."""
    codes = ('ERRMSG', 'X')[: 1 + (number % 3 == 0)]
    values = (f'error {number}', number)[: len(codes)]
    return Event('ERR', number, 0, 0, codes, values)


def bad(number):
    """Make an event that does not fit its table."""
    return Event('ERR', number, 0, 0, ('ERRMSG',), (number,))


def index_of(events):
    joined = np.frombuffer(b''.join(event_digests(events)), dtype='u1')
    return DigestIndex(joined.reshape(-1, DIGEST_SIZE))


def collect(events, size, known=(), seen=None):
    """Collect events in batches of `size`, which are named after their places."""
    result = Collected(lambda: index_of(known), set() if seen is None else seen)
    for start in range(0, len(events), size):
        batch = events[start : start + size]
        result.add(f'batch {start // size}', batch, event_digests(batch))
    return result


EVENTS = [kind(n) for n in range(40) for kind in (error, comparator)]


@pytest.mark.parametrize('at_once', [1, 7, 50, 1000])
@pytest.mark.parametrize('size', [1, 9, 80])
def test_rows_are_those_of_all_events_together(monkeypatch, at_once, size):
    monkeypatch.setattr(collected, '_AT_ONCE', at_once)

    found = collect(EVENTS, size)

    for one, other in zip(found.tables(), rows_and_blobs(EVENTS).tables, strict=True):
        assert one.table is other.table
        blobs = [
            [rows.blobs[row['messages']] for row in rows.rows]
            if rows.table.blob_columns
            else []
            for rows in (one, other)
        ]
        assert blobs[0] == blobs[1]
        assert len(one.blobs) == len(other.blobs)
        for name in set(one.rows.dtype.names) - {'messages'}:
            assert one.rows[name].tolist() == other.rows[name].tolist()
    assert found.digests == event_digests(EVENTS)
    assert found.names == found.new
    assert found.unknown_codes == {'X'}


def test_tables_are_the_same_when_asked_for_again():
    found = collect(EVENTS, 9)

    first = found.tables()

    assert [id(rows.rows) for rows in found.tables()] == [id(r.rows) for r in first]


@pytest.mark.parametrize('at_once', [1, 3, 1000])
def test_only_what_is_not_known_becomes_rows(monkeypatch, at_once):
    monkeypatch.setattr(collected, '_AT_ONCE', at_once)
    events = [error(1), error(2), error(2), error(3), error(1)]

    found = collect(events, 2, known=[error(3)])
    (rows,) = found.tables()

    assert rows.rows['timestamp'].tolist() == [1, 2]
    assert found.digests == event_digests([error(1), error(2)])
    assert found.names == ['batch 0', 'batch 0', 'batch 1', 'batch 1', 'batch 2']
    assert found.new == ['batch 0', 'batch 0']


def test_what_was_seen_in_another_collection_is_left_out():
    seen = set()
    collect([error(1)], 1, seen=seen).tables()

    (rows,) = collect([error(1), error(2)], 1, seen=seen).tables()

    assert rows.rows['timestamp'].tolist() == [2]


@pytest.mark.parametrize('at_once', [1, 2, 1000])
def test_events_that_do_not_fit_are_told_with_their_batch(monkeypatch, at_once):
    monkeypatch.setattr(collected, '_AT_ONCE', at_once)
    events = [error(1), bad(2), bad(3), error(4), bad(2)]

    found = collect(events, 2)
    (rows,) = found.tables()

    assert rows.rows['timestamp'].tolist() == [1, 4]
    assert found.digests == event_digests([error(1), error(4)])
    assert found.new == ['batch 0', 'batch 0', 'batch 1', 'batch 1']
    why = ('ERRMSG is a number instead of text',)
    assert found.misfits == [('batch 0', bad(2), why), ('batch 1', bad(3), why)]


@pytest.mark.parametrize('at_once', [3, 1000])
def test_file_is_asked_once_and_not_before_there_are_many_events(monkeypatch, at_once):
    monkeypatch.setattr(collected, '_AT_ONCE', at_once)
    asked = []

    def known():
        asked.append(len(found.names))
        return index_of([])

    found = Collected(known, set())
    for number in range(8):
        found.add('batch', [error(number)], event_digests([error(number)]))
    assert asked == ([3] if at_once == 3 else [])

    assert found.known() is found.known()
    assert found.tables()[0].rows['timestamp'].tolist() == list(range(8))
    assert len(asked) == 1


def test_nothing_that_fits_leaves_no_tables():
    found = collect([bad(1)], 1)

    assert found.tables() == []
    assert found.digests == []
