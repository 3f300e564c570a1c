"""What must hold for any upload whatever."""

import hashlib
import io
import pickle
import tempfile
from base64 import b64encode
from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import h5py
import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import GROUP, PASSWORD, STATION, start_uwsgi, stop, write_config

from datastore.station import form
from datastore.upload_codes import EVENT_TYPES, TABLES
from writer.writer_app import writer
from wsgi.wsgi_app import application

# Few days, so that events meet in a file; not one that is suspicious.
DAYS = [date(2016, 1, 1), date(2019, 4, 8), date(2024, 2, 29)]
MOMENTS = st.builds(
    datetime.combine,
    st.sampled_from(DAYS),
    st.builds(
        lambda s, us: (datetime.min + timedelta(seconds=s, microseconds=us)).time(),
        st.integers(0, 86399),
        st.sampled_from([0, 1, 656000, 999999]),
    ),
)


def values(column):
    """Any value that fits the column, as a station may send it."""
    if column.encoding == 'base64':
        return st.binary(max_size=50).map(lambda b: b64encode(b).decode('ascii'))
    if column.encoding == 'latin-1':
        return st.text(st.characters(max_codepoint=255), max_size=20)
    if column.dtype == 'bool':
        return st.booleans() | st.integers(0, 1)
    if column.row_dtype.kind == 'f':
        width = column.row_dtype.itemsize * 8
        return st.floats(width=width) | st.integers(-(10**6), 10**6)
    limits = np.iinfo(column.row_dtype)
    whole = st.integers(int(limits.min), int(limits.max))
    fraction = st.floats(max(float(limits.min), -1e6), min(float(limits.max), 1e6))
    return whole | fraction


@st.composite
def uploaded_events(draw):
    """An event of any type, with any of its upload codes."""
    table = draw(st.sampled_from(TABLES))
    # One event type has no upload codes at all.
    codes = draw(st.lists(st.sampled_from([*table.fields, None]), unique=True))
    return {
        'header': {
            'eventtype_uploadcode': table.event_type,
            'datetime': draw(MOMENTS),
            'nanoseconds': draw(st.integers(0, 10**9 - 1)),
        },
        'datalist': [
            {
                'data_uploadcode': code,
                'data': draw(values(table.fields[code].column)),
            }
            for code in codes
            if code is not None
        ],
    }


def answer(configfile, body):
    """POST `body` to the callable in this process and return its answer."""
    environ = {
        'REQUEST_METHOD': 'POST',
        'CONTENT_LENGTH': str(len(body)),
        'wsgi.input': io.BytesIO(body),
        'wsgi.errors': io.StringIO(),
    }
    return b''.join(application(environ, lambda status, headers: None, configfile))


def expected_rows(events):
    """Return, by day and table, the values of each event's row, in order.

    A blob stands for its index.  An event that comes twice has one row.
    """
    rows = defaultdict(list)
    seen = set()
    for event in events:
        if repr(event) in seen:
            continue
        seen.add(repr(event))
        header = event['header']
        table = EVENT_TYPES[header['eventtype_uploadcode']]
        moment = header['datetime'].replace(microsecond=0)
        timestamp = (moment - datetime(1970, 1, 1)) // timedelta(seconds=1)
        key = header['datetime'].date(), table.name
        row = {}
        for column in table.columns:
            default = None if column.is_blob else column.default
            row[column.name] = [default] * 4 if column.shape else default
        row |= {'event_id': len(rows[key]) + 1, 'timestamp': timestamp}
        if 'nanoseconds' in row:
            row['nanoseconds'] = header['nanoseconds']
            row['ext_timestamp'] = timestamp * 10**9 + header['nanoseconds']
        for entry in event['datalist']:
            field, value = table.fields[entry['data_uploadcode']], entry['data']
            if field.detector is None:
                row[field.column.name] = value
            else:
                row[field.column.name][field.detector] = value
        rows[key].append(row)
    return rows


def assert_stored(stored, column, sent, blobs):
    """Check one element of a row against what was sent for it."""
    if column.is_blob:
        encode = b64encode if column.encoding == 'base64' else bytes
        blob = None if stored == -1 else encode(blobs[stored].tobytes())
        assert (blob is None and sent is None) or blob.decode('latin-1') == sent
    elif column.row_dtype.kind == 'f':
        np.testing.assert_equal(stored, column.row_dtype.type(sent))
    else:
        assert stored == int(sent)


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(uploaded_events(), max_size=6), min_size=1, max_size=3)
)
def test_any_events_survive_from_upload_to_archive_value_for_value(batches):
    with tempfile.TemporaryDirectory() as directory:
        configfile = write_config(Path(directory))
        for protocol, events in enumerate(batches):
            pickled = pickle.dumps(events, protocol)
            assert answer(configfile, form(STATION, PASSWORD, pickled)) == b'100'
            writer(configfile, once=True)
        data = Path(directory) / 'data'
        expected = expected_rows([event for events in batches for event in events])
        assert list((data / 'suspicious').iterdir()) == []
        for (day, table), rows in expected.items():
            name = f'{day.year}_{day.month}_{day.day}/station_{STATION}.h5'
            with h5py.File(data / f'{day.year}/{day.month}' / name) as file:
                stored = file[GROUP][table][:]
                blobs = file[GROUP].get('blobs', [])[:]
            assert len(stored) == len(rows)
            columns = next(t for t in TABLES if t.name == table).columns
            for row, sent in zip(stored, rows, strict=True):
                for column in columns:
                    if column.shape:
                        for element, one in zip(
                            row[column.name], sent[column.name], strict=True
                        ):
                            assert_stored(element, column, one, blobs)
                    else:
                        assert_stored(
                            row[column.name], column, sent[column.name], blobs
                        )


@pytest.fixture(scope='module')
def server(module_configfile):
    server = start_uwsgi(module_configfile)
    yield server
    stop(server.process)


RCODES = {'100', '201', '203', '205', '206', '208', '400'}
GOOD = pickle.dumps([{'header': {}, 'datalist': []}], 2)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=2000))
def test_any_bytes_as_data_answer_a_defined_code_and_leave_the_worker_serving(
    server, data
):
    fields = {
        'station_id': STATION,
        'password': PASSWORD,
        'data': data,
        'checksum': hashlib.md5(data).hexdigest(),
    }
    with requests.Session() as session:
        assert session.post(server.url, urlencode(fields), timeout=30).text in RCODES
        good = form(STATION, PASSWORD, GOOD)
        assert session.post(server.url, good, timeout=30).text == '100'


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=st.binary(max_size=500))
def test_any_bytes_as_body_answer_400(server, body):
    assert requests.post(server.url, body, timeout=30).text == '400'


def test_no_worker_died_of_any_of_these(server):
    assert 'DAMN' not in server.log.read_text()
