"""The tables are those of the archive's specification, column by column."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import PROJECT

from datastore.upload_codes import EVENT_TYPES, TABLES, Column, Field

# A copy, because the specification is not part of the project.
COPY = Path(__file__).with_name('tables.csv')
SPECIFICATION = PROJECT.parent / 'shared' / 'spec' / 'tables.csv'

with COPY.open(newline='') as file:
    SPECIFIED = list(csv.DictReader(file))

BLOBS = {
    'CIC': ('traces',),
    'ERR': ('messages',),
    'CFG': ('mas_version', 'slv_version', 'password', 'buffer'),
    'WER': ('messages',),
    'WCG': ('database_name', 'help_url'),
    'LER': ('messages',),
    'LCG': ('database_name', 'help_url'),
}


tables = pytest.mark.parametrize(
    'table', TABLES, ids=[table.event_type for table in TABLES]
)


@pytest.mark.skipif(not SPECIFICATION.exists(), reason=f'no {SPECIFICATION}')
def test_copy_is_the_specification():
    assert COPY.read_bytes() == SPECIFICATION.read_bytes()


@pytest.mark.parametrize(
    'row', SPECIFIED, ids=[f'{row["event_type"]}.{row["column"]}' for row in SPECIFIED]
)
def test_column_is_as_specified(row):
    table = EVENT_TYPES[row['event_type']]
    column = table.columns[int(row['position'])]
    element = 'u1' if row['dtype'] == 'bool' else row['dtype']
    default = 0 if row['default'] == 'False' else float(row['default'])

    assert (table.name, table.title) == (row['table'], row['title'])
    assert column.name == row['column']
    assert column.dtype == row['dtype']
    assert column.row_dtype == np.dtype(element)
    assert column.shape == ((int(row['shape']),) if row['shape'] else ())
    assert column.default == default
    assert column.upload_code == row['upload_code']
    assert column.is_blob == (row['is_blob'] == 'yes')


def test_there_are_no_columns_but_those_specified():
    rows = Counter(row['event_type'] for row in SPECIFIED)

    assert {table.event_type: len(table.columns) for table in TABLES} == rows


def test_there_are_fourteen_tables_found_by_their_event_type():
    assert len(TABLES) == len(EVENT_TYPES) == 14
    assert len({table.name for table in TABLES}) == 14
    for event_type, table in EVENT_TYPES.items():
        assert table.event_type == event_type


@tables
def test_no_column_is_declared_twice(table):
    names = [column.name for column in table.columns]

    assert len(set(names)) == len(names)


@tables
def test_every_upload_code_goes_to_one_place_of_its_own(table):
    sent = [column for column in table.columns if column.upload_code]
    elements = [
        (column.name, detector)
        for column in sent
        for detector in (range(4) if column.shape else [None])
    ]

    places = [(field.column.name, field.detector) for field in table.fields.values()]

    assert sorted(places, key=repr) == sorted(elements, key=repr)


@tables
def test_columns_of_the_header_come_first_and_no_other_is_without_a_code(table):
    header = ['event_id', 'timestamp']
    if table.event_type in ('CIC', 'CMP'):
        header += ['nanoseconds', 'ext_timestamp']

    without_a_code = [c.name for c in table.columns if not c.upload_code]

    assert without_a_code == [c.name for c in table.columns][: len(header)] == header


@tables
def test_only_air_showers_and_comparators_are_stamped_to_the_nanosecond(table):
    assert table.has_nanoseconds == (table.event_type in ('CIC', 'CMP'))


@tables
def test_row_is_packed_and_in_the_order_of_the_columns(table):
    sizes = [c.row_dtype.itemsize * (4 if c.shape else 1) for c in table.columns]

    assert table.row_dtype.names == tuple(column.name for column in table.columns)
    assert table.row_dtype.itemsize == sum(sizes)
    offsets = [table.row_dtype.fields[c.name][1] for c in table.columns]
    assert offsets == np.cumsum([0, *sizes[:-1]]).tolist()


@tables
def test_empty_row_reads_every_columns_default(table):
    row = table.empty_row

    assert row.shape == ()
    assert row.dtype == table.row_dtype
    for column in table.columns:
        assert row[column.name].shape == column.shape
        assert np.all(row[column.name] == column.default), column.name


@tables
def test_values_of_detectors_blobs_and_singles_are_minus_one_where_absent(table):
    for column in table.columns:
        absent = column.shape or column.is_blob
        if table.event_type == 'SIN' and column.upload_code:
            absent = True
        assert column.default == (-1 if absent else 0), column.name


@tables
def test_blobs_are_indices_of_32_bits(table):
    assert table.blob_columns == BLOBS.get(table.event_type, ())
    for column in table.columns:
        if column.is_blob:
            assert column.dtype == 'int32'
            assert column.encoding == (
                'base64' if column.name == 'traces' else 'latin-1'
            )


def test_codes_of_a_column_per_detector_end_in_its_number():
    fields = EVENT_TYPES['CIC'].fields
    pulseheights = next(
        c for c in EVENT_TYPES['CIC'].columns if c.name == 'pulseheights'
    )

    assert [fields[f'PH{n}'] for n in (1, 2, 3, 4)] == [
        Field(pulseheights, detector) for detector in (0, 1, 2, 3)
    ]
    assert not {'PH', 'PH0', 'PH5'} & fields.keys()


def test_code_of_a_single_column_goes_to_no_detector():
    field = EVENT_TYPES['CIC'].fields['TRIGPATTERN']

    assert (field.column.name, field.detector) == ('trigger_pattern', None)


def test_event_without_values_has_no_upload_codes():
    assert EVENT_TYPES['LNS'].fields == {}


@pytest.mark.parametrize(
    ('event_type', 'column', 'unit'),
    [
        ('CIC', 'timestamp', 's'),
        ('CIC', 'ext_timestamp', 'ns'),
        ('CIC', 'pulseheights', 'ADC counts'),
        ('CIC', 'baseline', 'ADC counts'),
        ('CIC', 'std_dev', 'milli ADC counts'),
        ('CIC', 'integrals', 'ADC counts x sample'),
        ('CIC', 'event_rate', 'Hz'),
        ('CIC', 'n_peaks', ''),
        ('CFG', 'gps_latitude', 'degrees'),
        ('CFG', 'gps_altitude', 'm'),
        ('CFG', 'coinctime', ''),
        ('WTR', 'heat_index', 'degrees Celsius'),
        ('WTR', 'humidity_inside', '%'),
        ('WTR', 'barometer', 'hPa'),
        ('WTR', 'wind_dir', 'degrees'),
        ('WTR', 'wind_speed', 'm/s'),
        ('WTR', 'solar_rad', 'W/m2'),
        ('WTR', 'evapotranspiration', 'mm'),
        ('WTR', 'rain_rate', 'mm/h'),
        ('WTR', 'uv', ''),
    ],
)
def test_units_are_those_of_the_data_descriptions(event_type, column, unit):
    units = {c.name: c.unit for c in EVENT_TYPES[event_type].columns}

    assert units[column] == unit


def test_bool_is_a_byte_in_a_row():
    assert Column('reduce_data', 'bool').row_dtype == np.uint8
