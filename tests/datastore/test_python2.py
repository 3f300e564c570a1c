"""Event lists are pickled as Python 2 pickles them."""

import pickle
from datetime import datetime

import pytest
from support import RECORDINGS

from datastore.python2 import in_python_2_order, pickled_as_python_2

EVENT = {
    'datalist': [
        {'data_uploadcode': 'PH1', 'data': 923},
        {'data_uploadcode': 'EVENTRATE', 'data': 0.55},
        {'data_uploadcode': 'RED', 'data': True},
        {'data_uploadcode': 'TR1', 'data': "it's \n\xff"},
        {'data_uploadcode': 'PH2', 'data': None},
    ],
    'header': {'datetime': datetime(2017, 2, 26, 7, 39, 4, 656000), 'nanoseconds': 5},
}


def test_any_python_reads_it_back():
    pickled = pickled_as_python_2([EVENT, EVENT])

    assert pickle.loads(pickled, encoding='latin-1') == [EVENT, EVENT]


def test_keys_are_written_out_once_an_event():
    pickled = pickled_as_python_2([EVENT, EVENT])

    assert pickled.count(b"S'data_uploadcode'\n") == 2


@pytest.mark.recording
def test_a_recorded_batch_comes_out_byte_for_byte():
    recorded = (RECORDINGS / 'py2_s510_100events').read_bytes()
    events = pickle.loads(recorded, encoding='latin-1')

    assert pickled_as_python_2(events) == recorded
    shuffled = [dict(sorted(event.items(), reverse=True)) for event in events]
    assert pickled_as_python_2(list(map(in_python_2_order, shuffled))) == recorded
