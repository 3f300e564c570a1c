"""Events by columns are the same events."""

from hypothesis import given
from hypothesis import strategies as st
from support import events_of

from datastore.event import Event
from datastore.series import Series, count_events, in_series

A = Event('CIC', 10, 1, 100, ('PH1', 'PH2'), (5, 6))
B = Event('CIC', 11, 2, 101, ('PH1',), (7,))
C = Event('CIC', 12, 3, 102, ('PH1', 'PH2'), (8, None))
OF_ANOTHER_TYPE = C._replace(event_type='WTR')
EMPTY = Event('SIN', 13, 4, 0, (), ())


def test_events_of_a_type_with_the_same_codes_are_a_series():
    assert in_series([A, B, C]) == [
        Series(
            'CIC',
            ('PH1', 'PH2'),
            places=[0, 2],
            timestamps=[10, 12],
            microseconds=[1, 3],
            nanoseconds=[100, 102],
            columns=[(5, 8), (6, None)],
        ),
        Series('CIC', ('PH1',), [1], [11], [2], [101], [(7,)]),
    ]


def test_events_of_another_type_are_another_series():
    assert [one.event_type for one in in_series([C, OF_ANOTHER_TYPE])] == ['CIC', 'WTR']


def test_no_events_are_no_series():
    assert in_series([]) == []
    assert count_events([]) == 0


@given(st.lists(st.sampled_from([A, B, C, OF_ANOTHER_TYPE, EMPTY])))
def test_series_hold_all_events_in_their_places(events):
    series = in_series(events)

    assert events_of(series) == events
    assert count_events(series) == len(events)
