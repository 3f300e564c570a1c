"""Every value goes to its column, or its event is flagged, and no other."""

import base64
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastore.event import Event
from datastore.upload_codes import EVENT_TYPES, TABLES
from writer.rows import rows_and_blobs

MOMENT = 1_580_702_706  # 2020-02-03 04:05:06, in s

# What `struct` calls each dtype, and the least and greatest value it holds.
FORMATS = {
    'bool': ('B', 0, 1),
    'uint8': ('B', 0, 255),
    'int16': ('h', -32768, 32767),
    'uint16': ('H', 0, 65535),
    'int32': ('i', -(2**31), 2**31 - 1),
    'uint32': ('I', 0, 2**32 - 1),
    'int64': ('q', -(2**63), 2**63 - 1),
    'uint64': ('Q', 0, 2**64 - 1),
    'float32': ('f', -(2.0**127), 2.0**127),
    'float64': ('d', -1.7e308, 1.7e308),
}
TRACE = base64.b64encode(b'a trace').decode()


def event(event_type='CIC', timestamp=MOMENT, nanoseconds=0, **values):
    """Make an event; keywords are its upload codes."""
    codes, values = tuple(values), tuple(values.values())
    return Event(event_type, timestamp, 0, nanoseconds, codes, values)


def convert(*events):
    """Return the rows of one table; nothing may be flagged."""
    (table,), flagged, unknown = rows_and_blobs(events)
    assert (flagged, unknown) == ([], set())
    return table


def codes_of(column):
    """Return the upload codes of a column, in the order of its elements."""
    if column.shape:
        return [f'{column.upload_code}{detector}' for detector in '1234']
    return [column.upload_code]


def packed_row(table, expected):
    """Pack a row without numpy, from what each column should hold."""
    packed = b''
    for column in table.columns:
        values = expected[column.name]
        values = values if column.shape else [values]
        packed += struct.pack(f'<{len(values)}{FORMATS[column.dtype][0]}', *values)
    return packed


def header_columns(timestamp=MOMENT, nanoseconds=0):
    return {
        'event_id': 0,
        'timestamp': timestamp,
        'nanoseconds': nanoseconds,
        'ext_timestamp': timestamp * 10**9 + nanoseconds,
    }


def of_every_type(function):
    return pytest.mark.parametrize('table', TABLES, ids=lambda t: t.event_type)(
        function
    )


def value_columns(table):
    return [column for column in table.columns if column.upload_code]


@of_every_type
def test_every_value_goes_to_its_own_column(table):
    values, expected, blobs = {}, header_columns(MOMENT, 12), []
    for column in value_columns(table):
        expected[column.name] = []
        for code in codes_of(column):
            number = len(values) % 100 + 3  # another for each code
            if column.encoding == 'base64':
                values[code] = base64.b64encode(b'trace %d' % number).decode()
                expected[column.name].append(len(blobs))
                blobs.append(b'trace %d' % number)
            elif column.encoding == 'latin-1':
                values[code] = f'{code} ÿ'
                expected[column.name].append(len(blobs))
                blobs.append(code.encode('ascii') + b' \xff')
            elif column.dtype == 'bool':
                values[code] = number % 2 == 1
                expected[column.name].append(number % 2)
            elif column.dtype.startswith('float'):
                values[code] = number + 0.25
                expected[column.name].append(number + 0.25)
            else:
                values[code] = number
                expected[column.name].append(number)
        if not column.shape:
            (expected[column.name],) = expected[column.name]

    rows = convert(event(table.event_type, nanoseconds=12, **values))

    assert rows.table is table
    assert rows.rows.tobytes() == packed_row(table, expected)
    assert rows.blobs == blobs


@pytest.mark.parametrize('limit', [1, 2], ids=['least', 'greatest'])
@of_every_type
def test_every_column_holds_the_limits_of_its_dtype(table, limit):
    values, expected = {}, header_columns()
    for column in value_columns(table):
        number = FORMATS[column.dtype][limit]
        if column.is_blob:
            number = -1
        else:
            values |= dict.fromkeys(codes_of(column), number)
        expected[column.name] = [number] * 4 if column.shape else number

    rows = convert(event(table.event_type, **values))

    assert rows.rows.tobytes() == packed_row(table, expected)


@of_every_type
def test_event_without_values_gets_the_defaults(table):
    expected = header_columns()
    for column in value_columns(table):
        absent = column.shape or column.is_blob or table.event_type == 'SIN'
        default = -1 if absent else 0
        expected[column.name] = [default] * 4 if column.shape else default

    rows = convert(event(table.event_type))

    assert rows.rows.tobytes() == packed_row(table, expected)
    assert rows.blobs == []


def test_missing_detectors_are_minus_one():
    values = {'PH1': 5, 'PH2': 0, 'IN3': 7, 'TR2': TRACE}

    (row,) = convert(event(**values)).rows

    assert row['pulseheights'].tolist() == [5, 0, -1, -1]
    assert row['integrals'].tolist() == [-1, -1, 7, -1]
    assert row['traces'].tolist() == [-1, 0, -1, -1]
    assert row['baseline'].tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize(
    ('event_type', 'code', 'sent', 'stored'),
    [
        ('CIC', 'PH1', 1.9, 1),
        ('CIC', 'PH1', -1.9, -1),
        ('CIC', 'PH1', -0.0, 0),
        ('CIC', 'PH1', 32767.9, 32767),
        ('CIC', 'PH1', -32768.9, -32768),
        ('CIC', 'TRIGPATTERN', -0.9, 0),
        ('CMP', 'CMP_DEVICE', 255.9, 255),
        ('SIN', 'MAS_CH1_LOW', 1e9, 10**9),
    ],
)
def test_fractions_truncate_toward_zero(event_type, code, sent, stored):
    rows = convert(event(event_type, **{code: sent})).rows

    column = EVENT_TYPES[event_type].fields[code].column
    assert rows[column.name].flat[0] == stored


@pytest.mark.parametrize('sent', [True, 1, 1.0], ids=repr)
@pytest.mark.parametrize(
    ('code', 'column'), [('RED', 'data_reduction'), ('TRIGPATTERN', 'trigger_pattern')]
)
def test_truth_is_one_however_it_is_sent(code, column, sent):
    (row,) = convert(event(**{code: sent})).rows

    assert row[column] == 1


def test_integers_are_not_rounded_by_fractions_beside_them():
    rows = convert(event(IN1=2**31 - 1), event(IN1=0.5), event(IN1=-(2**31))).rows

    assert rows['integrals'][:, 0].tolist() == [2**31 - 1, 0, -(2**31)]


def test_floats_are_rounded_to_the_nearest_float32():
    (row,) = convert(event(EVENTRATE=0.1)).rows

    assert row['event_rate'] == struct.unpack('f', struct.pack('f', 0.1))[0]


@pytest.mark.parametrize('number', [math.nan, math.inf, -math.inf], ids=repr)
@pytest.mark.parametrize(
    ('event_type', 'code', 'column'),
    [('CIC', 'EVENTRATE', 'event_rate'), ('CFG', 'CFG_GPS_LAT', 'gps_latitude')],
    ids=['float32', 'float64'],
)
def test_float_columns_hold_what_is_not_finite(event_type, code, column, number):
    (row,) = convert(event(event_type, **{code: number})).rows

    assert np.array_equal(row[column], number, equal_nan=True)


def exceeds(value, dtype):
    return f'is {value}, which does not fit {dtype}'


NOT_A_NUMBER = 'is text instead of a number'
DOES_NOT_FIT = {
    'above int16': ('CIC', 'PH1', 32768, exceeds(32768, 'int16')),
    'below int16': ('CIC', 'PH4', -32769, exceeds(-32769, 'int16')),
    'fraction above int16': ('CIC', 'BL2', 32768.5, exceeds(32768, 'int16')),
    'far above int16': ('CIC', 'NP3', 2**64 - 1, exceeds(2**64 - 1, 'int16')),
    'above int32': ('CIC', 'IN1', 2**31, exceeds(2**31, 'int32')),
    'above uint8': ('CMP', 'CMP_DEVICE', 256, exceeds(256, 'uint8')),
    'above uint16': ('CMP', 'CMP_COUNT', 65536, exceeds(65536, 'uint16')),
    'above uint32': ('CIC', 'TRIGPATTERN', 2**32, exceeds(2**32, 'uint32')),
    'below uint32': ('CIC', 'TRIGPATTERN', -1, exceeds(-1, 'uint32')),
    'above float32': ('CIC', 'EVENTRATE', 1e39, exceeds(1e39, 'float32')),
    'below float32': ('CIC', 'EVENTRATE', -1e39, exceeds(-1e39, 'float32')),
    'nan in an integer': ('CIC', 'PH1', math.nan, 'is nan instead of an integer'),
    'inf in an integer': ('CIC', 'PH1', math.inf, 'is inf instead of an integer'),
    'two in a bool': ('CIC', 'RED', 2, 'is 2 instead of true or false'),
    'half in a bool': ('CIC', 'RED', 0.5, 'is 0.5 instead of true or false'),
    'nan in a bool': ('CIC', 'RED', math.nan, 'is nan instead of true or false'),
    'text in a bool': ('CIC', 'RED', 'True', NOT_A_NUMBER),
    'text in an integer': ('CIC', 'PH1', '12', NOT_A_NUMBER),
    'text in a float': ('CIC', 'EVENTRATE', '0.5', NOT_A_NUMBER),
    'nothing in an integer': ('CIC', 'PH1', None, 'is nothing instead of a number'),
    'nothing in a float': ('CIC', 'EVENTRATE', None, 'is nothing instead of a number'),
    'number for a trace': ('CIC', 'TR1', 0.5, 'is a number instead of text'),
    'number for text': ('ERR', 'ERRMSG', 0.5, 'is a number instead of text'),
    'truth for text': ('ERR', 'ERRMSG', True, 'is true or false instead of text'),
    'nothing for text': ('ERR', 'ERRMSG', None, 'is nothing instead of text'),
    'not base64': ('CIC', 'TR1', 'a trace!', 'is not base64'),
    'base64 cut short': ('CIC', 'TR1', TRACE[:-1], 'is not base64'),
    'base64 that is not ascii': ('CIC', 'TR1', 'é' * 4, 'is not base64'),
    'not latin-1': ('ERR', 'ERRMSG', '5 €', r"holds '\u20ac', which latin-1 cannot"),
    'surrogate': ('ERR', 'ERRMSG', '\udc80', r"holds '\udc80', which latin-1 cannot"),
}


@pytest.mark.parametrize(
    ('event_type', 'code', 'sent', 'reason'),
    DOES_NOT_FIT.values(),
    ids=DOES_NOT_FIT.keys(),
)
def test_value_that_does_not_fit_is_flagged_alone(event_type, code, sent, reason):
    column = EVENT_TYPES[event_type].fields[code].column
    good = {'base64': TRACE, 'latin-1': 'good'}.get(column.encoding, 1)
    neighbours = [event(event_type, MOMENT + i, **{code: good}) for i in range(3)]
    batch = [*neighbours[:2], event(event_type, **{code: sent}), neighbours[2]]

    (table,), flagged, _ = rows_and_blobs(batch)

    assert flagged == [(2, (f'{code} {reason}',))]
    alone = convert(*neighbours)
    assert table.rows.tobytes() == alone.rows.tobytes()
    assert table.blobs == alone.blobs


def test_reasons_never_quote_text():
    faults = {
        'CFG_DETNUM': 'a secret',
        'CFG_REDUCE': 'a secret',
        'CFG_PASSWORD': 'a secret €',
    }

    _, ((_, reasons),), _ = rows_and_blobs([event('CFG', **faults)])

    assert len(reasons) == 3
    assert 'secret' not in ' '.join(reasons)


def test_every_fault_of_an_event_is_a_reason():
    batch = [event(PH1=40000, PH2=3, TR1='!', EVENTRATE='fast')]

    assert rows_and_blobs(batch).flagged == [
        (
            0,
            (
                'PH1 is 40000, which does not fit int16',
                'TR1 is not base64',
                'EVENTRATE is text instead of a number',
            ),
        )
    ]


def test_flagged_events_are_listed_in_the_order_they_came():
    batch = [event(PH1=None), event(PH1=1), event(PH2=None), event(PH1=None)]

    conversion = rows_and_blobs(batch)

    assert [position for position, _ in conversion.flagged] == [0, 2, 3]


def test_nothing_but_flagged_events_makes_no_table():
    assert rows_and_blobs([event(PH1=None)]).tables == []


def test_no_events_make_no_table():
    assert rows_and_blobs([]) == ([], [], set())


@pytest.mark.parametrize(
    ('timestamp', 'nanoseconds'),
    [
        (-1, 0),
        (253_402_300_799, 0),  # 9999-12-31
        (MOMENT, -1),
        (MOMENT, 2**32),
    ],
    ids=['before 1970', 'year 9999', 'negative nanoseconds', 'too many nanoseconds'],
)
def test_time_that_does_not_fit_is_flagged_alone(timestamp, nanoseconds):
    batch = [event(PH1=1), event('CIC', timestamp, nanoseconds, PH1=2), event(PH1=3)]

    (table,), flagged, _ = rows_and_blobs(batch)

    assert flagged == [(1, ('its time does not fit the timestamp',))]
    assert table.rows['pulseheights'][:, 0].tolist() == [1, 3]


@pytest.mark.parametrize('timestamp', [-86400, 253_402_300_799])
def test_table_of_whole_seconds_holds_any_date(timestamp):
    (row,) = convert(event('WTR', timestamp)).rows

    assert row['timestamp'] == timestamp


@pytest.mark.parametrize('event_type', ['CIC', 'CMP'])
@pytest.mark.parametrize('nanoseconds', [0, 1, 123_456_789, 999_999_999])
def test_ext_timestamp_is_exact(event_type, nanoseconds):
    (row,) = convert(event(event_type, 1_580_702_707, nanoseconds)).rows

    assert row['nanoseconds'] == nanoseconds
    assert int(row['ext_timestamp']) == 1_580_702_707_000_000_000 + nanoseconds


def test_blobs_of_an_event_stand_together():
    def traces(number):
        return {
            f'TR{detector}': base64.b64encode(b'%d.%d' % (number, detector)).decode()
            for detector in (1, 2, 4)
        }

    table = convert(*(event(**traces(number)) for number in range(3)))

    assert table.rows['traces'].tolist() == [
        [0, 1, -1, 2],
        [3, 4, -1, 5],
        [6, 7, -1, 8],
    ]
    assert table.blobs == [
        b'%d.%d' % (number, detector) for number in range(3) for detector in (1, 2, 4)
    ]


def test_blobs_keep_their_events_when_codes_differ():
    def trace(text):
        return base64.b64encode(text).decode()

    table = convert(
        event(PH1=0, TR1=trace(b'a')),
        event(PH1=1),
        event(TR2=trace(b'c'), TR1=trace(b'b'), PH1=2),
        event(PH1=3, TR1=trace(b'')),
    )

    found = [
        [table.blobs[index] if index >= 0 else None for index in indices]
        for indices in table.rows['traces']
    ]
    assert table.rows['pulseheights'][:, 0].tolist() == [0, 1, 2, 3]
    assert found == [
        [b'a', None, None, None],
        [None, None, None, None],
        [b'b', b'c', None, None],
        [b'', None, None, None],
    ]


def test_each_table_has_blobs_of_its_own():
    conversion = rows_and_blobs(
        [event('ERR', ERRMSG='error'), event('WER', WER_ERRMSG='weather error')]
    )

    assert [(t.table.name, t.rows['messages'], t.blobs) for t in conversion.tables] == [
        ('errors', [0], [b'error']),
        ('weather_errors', [0], [b'weather error']),
    ]


def test_trace_stays_as_it_is_beneath_base64():
    compressed = bytes(range(256))

    assert convert(event(TR1=base64.b64encode(compressed).decode())).blobs == [
        compressed
    ]


def test_base64_may_be_broken_into_lines():
    encoded = base64.encodebytes(bytes(200)).decode()
    assert '\n' in encoded

    assert convert(event(TR1=encoded)).blobs == [bytes(200)]


def test_rows_keep_the_order_of_arrival_whatever_their_codes():
    shapes = [{'PH1': 1}, {'PH1': 1, 'PH2': 2}, {}, {'PH2': 2, 'PH1': 1}]
    # Neither sorted by time nor grouped by their codes.
    timestamps = [MOMENT + 37 * i % 101 for i in range(40)]
    batch = [
        event('CIC', timestamp, **shapes[i * i % 7 % 4])
        for i, timestamp in enumerate(timestamps)
    ]

    assert convert(*batch).rows['timestamp'].tolist() == timestamps


def test_unknown_codes_are_reported_and_the_rest_is_stored():
    batch = [
        event(PH1=1, PH5=2),
        event('WTR', PH1=3, WTR_UV=4),
        event('LNS', WHATEVER=5),
    ]

    conversion = rows_and_blobs(batch)

    assert conversion.unknown_codes == {'PH5', 'PH1', 'WHATEVER'}
    assert conversion.flagged == []
    events, weather, noise = (table.rows for table in conversion.tables)
    assert events['pulseheights'].tolist() == [[1, -1, -1, -1]]
    assert weather['uv'].tolist() == [4]
    assert len(noise) == 1


def test_unknown_code_of_a_flagged_event_is_reported():
    assert rows_and_blobs([event(PH1=None, PH5=2)]).unknown_codes == {'PH5'}


VALUES = st.one_of(
    st.sampled_from([0, 1, -1, True, 255, 40000, 2**40, None, '', TRACE, 'é', '€']),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=4),
)
CODES = {
    'CIC': ['RED', 'PH1', 'PH2', 'TR1', 'TR2', 'EVENTRATE', 'UNKNOWN'],
    'CFG': ['CFG_PASSWORD', 'CFG_BUFFER', 'CFG_DETNUM', 'CFG_GPS_LAT'],
    'ERR': ['ERRMSG'],
}


@st.composite
def events(draw):
    event_type = draw(st.sampled_from(sorted(CODES)))
    chosen = draw(st.lists(st.sampled_from(CODES[event_type]), unique=True))
    # Good ones as well, so that some of a group with the same codes are flagged.
    values = st.one_of(VALUES, st.sampled_from([1, TRACE]))
    timestamp = draw(st.integers(-1, 3))
    return event(event_type, timestamp, **{code: draw(values) for code in chosen})


def readable(table):
    """Return the rows as bytes, with their blobs instead of the indices."""
    found = []
    for row in table.rows:
        blobs = [
            None if index < 0 else table.blobs[index]
            for name in table.table.blob_columns
            for index in row[name].flat
        ]
        row = row.copy()
        for name in table.table.blob_columns:
            row[name] = 0
        found.append((row.tobytes(), blobs))
    return found


@given(st.lists(events(), max_size=12))
@settings(deadline=None)
def test_converting_together_equals_converting_one_by_one(batch):
    expected, flagged, unknown = {}, [], set()
    for position, one in enumerate(batch):
        conversion = rows_and_blobs([one])
        flagged += [(position, reasons) for _, reasons in conversion.flagged]
        unknown |= conversion.unknown_codes
        for table in conversion.tables:
            expected.setdefault(table.table.name, []).extend(readable(table))

    conversion = rows_and_blobs(batch)

    found = {table.table.name: readable(table) for table in conversion.tables}
    assert found == expected
    assert (conversion.flagged, conversion.unknown_codes) == (flagged, unknown)
