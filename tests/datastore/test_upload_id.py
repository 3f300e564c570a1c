"""An upload is named by eight hex digits, which its spool file's name carries."""

import itertools
import re

import pytest

from datastore.spool import Spool
from datastore.upload_id import new_upload_id, upload_id, uploads_in_lines


def name(number):
    return f'20240503T120000.{number:06}-510-{number:08x}.batch'


def test_id_is_eight_hex_digits():
    assert re.fullmatch('[0-9a-f]{8}', new_upload_id())


def test_ids_differ():
    assert len({new_upload_id() for _ in range(100)}) == 100


def test_spool_file_carries_the_id_it_was_put_with(data_dir):
    upload = new_upload_id()

    assert upload_id(Spool(data_dir).put(510, b'', upload)) == upload


@pytest.mark.parametrize(
    'name', ['', 'a', '0123abcd', '-0123abcd.batch.error', '-0123ABCD.batch', 'a.batch']
)
def test_name_of_something_else_has_no_id(name):
    assert upload_id(name) is None


@pytest.mark.parametrize(
    ('number', 'lines'), [(0, [0]), (1, [1]), (100, [100]), (101, [100, 1])]
)
def test_ids_of_many_uploads_take_several_lines(number, lines):
    uploads = list(uploads_in_lines({name(n) for n in range(number)}))

    assert list(map(len, uploads)) == lines
    together = list(itertools.chain.from_iterable(uploads))
    assert together == [f'{n:08x}' for n in range(number)]
