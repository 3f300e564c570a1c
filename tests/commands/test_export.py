"""`datastore export` as a scientist runs it, read back by other programs."""

import csv
import io
import os
import signal
import subprocess
import sys
import zlib
from base64 import b64encode

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from support import NOBODY, PROJECT, STATION, DayFiles, write_config

from datastore import cli
from datastore.event import Event
from datastore.upload_codes import EVENT_TYPES
from writer import export

MONDAY, TUESDAY = 1_580_688_000, 1_580_774_400  # 2020-02-03 and the day after, in s
BIG = 4_000_000_000  # ns; more than fit an int32


def trace(*samples):
    text = ','.join(map(str, samples)).encode()
    return b64encode(zlib.compress(text)).decode()


def shower(timestamp, nanoseconds=1, **values):
    values = {'EVENTRATE': 0.1, 'PH1': -1, 'PH2': 32767} | values
    return Event(
        'CIC', timestamp, 0, nanoseconds, tuple(values), tuple(values.values())
    )


def error(timestamp, text):
    return Event('ERR', timestamp, 0, 0, ('ERRMSG',), (text,))


@pytest.fixture
def run(configfile, capfdbinary):
    """Run `datastore export`; return its exit status, and what it printed."""

    def run(*arguments):
        arguments = [*map(str, arguments), '--config', str(configfile)]
        try:
            status = cli.main(['export', *arguments])
        except SystemExit as exit:
            status = exit.code
        out, err = capfdbinary.readouterr()
        return status, out, err.decode()

    return run


@pytest.fixture
def exported(run, tmp_path):
    """Export to a file of some format; return its path."""

    def exported(suffix, *arguments, start='2020-02-03', end='2020-02-05'):
        path = tmp_path / f'export.{suffix}'
        status, out, err = run(STATION, start, end, '-o', path, *arguments)
        assert (status, out) == (0, b''), err
        return path

    return exported


def lines(text):
    return [line for line in text.splitlines() if not line.startswith('# ')]


def read_csv(content, delimiter=','):
    text = content.decode()
    return list(
        csv.DictReader(io.StringIO('\n'.join(lines(text))), delimiter=delimiter)
    )


# Which rows.


@pytest.mark.parametrize(
    ('start', 'end', 'expected'),
    [
        ('2020-02-03', '2020-02-05', [0, 5, 86399, 86400]),
        ('2020-02-03', '2020-02-04', [0, 5, 86399]),
        ('2020-02-04', '2020-02-05', [86400]),
        ('2020-02-03T00:00:05', '2020-02-03T23:59:59', [5]),
        ('2020-02-03 00:00:01', '2020-02-04T00:00:01', [5, 86399, 86400]),
        ('0001-01-01', '9999-12-31', [0, 5, 86399, 86400]),
    ],
)
def test_rows_are_from_start_up_to_end_across_files(run, files, start, end, expected):
    files.store(STATION, shower(MONDAY + 86399), shower(MONDAY))
    files.store(STATION, shower(MONDAY + 5))  # late
    files.store(STATION, shower(TUESDAY))

    status, out, err = run(STATION, start, end)

    assert (status, err) == (0, '')
    found = [int(row['timestamp']) - MONDAY for row in read_csv(out)]
    assert found == expected


def test_last_day_of_all_can_be_asked_for(run, files, data_dir):
    files.store(STATION, shower(MONDAY))
    (data_dir / '9999').mkdir()
    for start in ('9999-12-31', '2020-02-04'):
        status, _, err = run(STATION, start, '9999-12-31T23:59:59')
        assert status == 1
        assert err.endswith('; there is no file of it on these days\n')


def test_rows_of_a_second_are_in_order_of_nanoseconds(run, files):
    files.store(STATION, shower(MONDAY, 3), shower(MONDAY, 1), shower(MONDAY, 2))
    _, out, _ = run(STATION, '2020-02-03', '2020-02-04')
    rows = read_csv(out)
    assert [row['nanoseconds'] for row in rows] == ['1', '2', '3']
    assert [row['event_id'] for row in rows] == ['2', '3', '1']


def test_rows_of_a_day_on_which_the_station_moved_are_in_order(run, files, monkeypatch):
    monkeypatch.setattr(export, '_ROWS_WITH_BLOBS', 3)
    for number, cluster in ((3, 'Zaanlands'), (1, 'Utrecht'), (4, 'Utrecht')):
        event = shower(MONDAY, number, TR1=trace(number, 7))
        files.store(STATION, event, cluster=cluster)
    late = shower(MONDAY, 2, TR1=trace(2, 7)), shower(MONDAY, 5)
    files.store(STATION, *late, cluster='Zaanlands')

    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', '--blobs')

    rows = read_csv(out)
    assert [row['nanoseconds'] for row in rows] == ['1', '2', '3', '4', '5']
    assert [row['event_id'] for row in rows] == ['1', '2', '1', '2', '3']
    assert [row['traces_1'] for row in rows] == ['1,7', '2,7', '3,7', '4,7', '']


def test_blobs_of_late_rows_are_their_own(run, files, monkeypatch):
    monkeypatch.setattr(export, '_ROWS_WITH_BLOBS', 3)
    monkeypatch.setattr(export, '_GAP', 2)
    order = np.random.default_rng(1).permutation(20).tolist()
    for number in order:
        files.store(STATION, shower(MONDAY + number, TR2=trace(number, 7)))

    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', '--blobs')

    found = [row['traces_2'] for row in read_csv(out)]
    assert found == [f'{number},7' for number in range(20)]


# What they look like.


@pytest.fixture
def two_showers(files):
    files.store(
        STATION,
        shower(MONDAY, BIG, RED=True, TR1=trace(31, 30), TR3=trace(2, -5, 7)),
        error(MONDAY + 1, 'tab\t, "quote"\nnext line \xe9'),
        shower(MONDAY + 2, EVENTRATE=float('nan'), TR1=''),
    )


EXT = MONDAY * 10**9 + BIG


@pytest.mark.parametrize(('suffix', 'delimiter'), [('csv', ','), ('tsv', '\t')])
def test_text_has_a_column_for_each_detector(exported, two_showers, suffix, delimiter):
    content = exported(suffix).read_bytes()

    first, second = read_csv(content, delimiter)
    assert first['ext_timestamp'] == str(EXT)
    assert first['data_reduction'] == '1'
    assert [first[f'pulseheights_{n}'] for n in (1, 2, 3)] == ['-1', '32767', '-1']
    assert (first['event_rate'], second['event_rate']) == ('0.1', 'nan')
    assert 'traces' not in content.decode()
    comments = [line for line in content.decode().splitlines() if line[0] == '#']
    assert f'station {STATION}' in comments[0]
    assert 'pulseheights [ADC counts]' in comments[-1]


def test_without_header_only_the_names_come_first(run, two_showers):
    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', '--no-header')
    assert out.startswith(b'event_id,timestamp,nanoseconds,')


def test_text_of_traces_is_their_samples(run, two_showers):
    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', '--blobs')
    first, second = read_csv(out)
    found = [first[f'traces_{n}'] for n in (1, 2, 3, 4)]
    assert found == ['31,30', '', '2,-5,7', '']
    assert second['traces_1'] == ''


@pytest.mark.parametrize(('name', 'delimiter'), [('csv', ','), ('tsv', '\t')])
def test_texts_come_back_as_they_were_sent(run, two_showers, name, delimiter):
    arguments = '--table', 'errors', '--blobs', '--format', name
    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', *arguments)
    body = out.decode().partition('event_id')[2]
    (row,) = csv.DictReader(
        io.StringIO('event_id' + body, newline=''), delimiter=delimiter
    )
    assert row['messages'] == 'tab\t, "quote"\nnext line \xe9'


@pytest.mark.parametrize(('name', 'delimiter'), [('csv', ','), ('tsv', '\t')])
def test_text_with_a_bare_carriage_return_is_one_row(run, files, name, delimiter):
    files.store(STATION, error(MONDAY, 'GPS lost\rrestarting'))
    arguments = '--table', 'errors', '--blobs', '--no-header', '--format', name
    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', *arguments)
    text = io.StringIO(out.decode(), newline='')
    (row,) = csv.DictReader(text, delimiter=delimiter)
    assert row['messages'] == 'GPS lost\rrestarting'
    assert b'\r\n' not in out


def test_npz_holds_arrays_of_the_columns(exported, two_showers):
    with np.load(exported('npz', '--blobs')) as found:
        assert found['ext_timestamp'].tolist()[0] == EXT
        assert found['data_reduction'].tolist() == [True, False]
        assert found['pulseheights'].tolist() == [[-1, 32767, -1, -1]] * 2
        for column in EVENT_TYPES['CIC'].columns:
            if not column.is_blob:
                assert found[column.name].dtype == column.dtype
        offsets = found['traces_offsets'].tolist()
        assert offsets == [0, 2, 2, 5, 5, 5, 5, 5, 5]
        assert found['traces'].tolist() == [31, 30, 2, -5, 7]


def test_npz_holds_texts_as_bytes(exported, two_showers):
    with np.load(exported('npz', '--blobs', '--table', 'errors')) as found:
        assert found['messages_offsets'].tolist() == [0, 25]
        text = found['messages'].tobytes().decode('latin-1')
    assert text == 'tab\t, "quote"\nnext line \xe9'


def test_parquet_holds_lists(exported, two_showers):
    table = pyarrow.parquet.read_table(exported('parquet', '--blobs'))
    first, second = table.to_pylist()
    assert first['ext_timestamp'] == EXT
    assert first['data_reduction'] is True
    assert first['pulseheights'] == [-1, 32767, -1, -1]
    assert first['traces'] == [[31, 30], None, [2, -5, 7], None]
    assert second['traces'] == [None] * 4
    assert str(table.schema.field('ext_timestamp').type) == 'uint64'
    assert str(table.schema.field('event_rate').type) == 'float'
    assert table.schema.field('timestamp').metadata == {b'unit': b's'}


def test_parquet_holds_texts(exported, two_showers):
    path = exported('parquet', '--blobs', '--table', 'errors')
    assert pyarrow.parquet.read_table(path)['messages'].to_pylist() == [
        'tab\t, "quote"\nnext line \xe9'
    ]


def test_formats_hold_the_same_however_rows_are_cut(exported, files, run, monkeypatch):
    showers = [shower(MONDAY + n, n, TR4=trace(*range(n))) for n in range(1, 40)]
    files.store(STATION, *showers)
    monkeypatch.setattr(export, '_ROWS_WITH_BLOBS', 7)

    _, out, _ = run(STATION, '2020-02-03', '2020-02-04', '--blobs')
    table = pyarrow.parquet.read_table(exported('parquet', '--blobs'))
    with np.load(exported('npz', '--blobs')) as arrays:
        ends = arrays['traces_offsets']
        npz = [part.tolist() for part in np.split(arrays['traces'], ends[1:-1])][3::4]
        assert arrays['nanoseconds'].tolist() == list(range(1, 40))

    expected = [list(range(n)) for n in range(1, 40)]
    text = [row['traces_4'].split(',') for row in read_csv(out)]
    assert [list(map(int, samples)) for samples in text] == expected
    assert [row[3] for row in table['traces'].to_pylist()] == expected
    assert npz == expected


@pytest.mark.parametrize('name', ['npz', 'parquet'])
def test_binary_formats_go_through_a_pipe(run, two_showers, tmp_path, name):
    status, out, _ = run(STATION, '2020-02-03', '2020-02-04', '--format', name)
    assert status == 0
    path = tmp_path / 'piped'
    path.write_bytes(out)
    if name == 'npz':
        with np.load(path) as found:
            assert found['ext_timestamp'].tolist()[0] == EXT
    else:
        found = pyarrow.parquet.read_table(path)['ext_timestamp']
        assert found.to_pylist()[0] == EXT


# Where it goes.


def test_output_is_replaced_and_nothing_else_is_left(exported, two_showers, tmp_path):
    (tmp_path / 'export.csv').write_text('before')
    before = set(os.listdir(tmp_path))
    assert len(read_csv(exported('csv').read_bytes())) == 2
    assert set(os.listdir(tmp_path)) == before


def test_link_stays_a_link(exported, two_showers, tmp_path):
    (tmp_path / 'export.csv').symlink_to(tmp_path / 'behind')
    exported('csv')
    assert (tmp_path / 'export.csv').is_symlink()
    assert len(read_csv((tmp_path / 'behind').read_bytes())) == 2


@pytest.mark.parametrize('name', ['csv', 'npz', 'parquet'])
def test_device_is_written_to_and_stays(run, two_showers, name):
    arguments = '--format', name, '-o', os.devnull
    status, _, _ = run(STATION, '2020-02-03', '2020-02-04', *arguments)
    assert status == 0
    assert not os.path.isfile(os.devnull)


def test_error_leaves_no_half_of_a_file(run, files, two_showers, tmp_path):
    damaged = files.store(STATION, shower(TUESDAY))
    os.truncate(damaged, 3000)
    output = tmp_path / 'export.csv'
    output.write_text('before')
    before = set(os.listdir(tmp_path))

    status, _, err = run(STATION, '2020-02-03', '2020-02-05', '-o', output)

    assert status == 1
    assert err.startswith(f'datastore: {damaged}: ')
    assert err.count('\n') == 1
    assert output.read_text() == 'before'
    assert set(os.listdir(tmp_path)) == before


def start_export(configfile):
    """Export Monday to a pipe, in a process of its own."""
    program = 'import sys; from datastore.cli import main; sys.exit(main())'
    arguments = ['export', str(STATION), '2020-02-03', '2020-02-04', '--config']
    return subprocess.Popen(
        [sys.executable, '-c', program, *arguments, str(configfile)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_who_has_read_enough_hears_nothing(configfile, two_showers):
    process = start_export(configfile)
    process.stdout.close()
    with process:
        assert process.stderr.read() == b''
    assert process.returncode == 1


def test_ctrl_c_is_status_130_and_a_line(configfile, files):
    # More than a pipe holds, so that it is still at it when the signal comes.
    files.store(STATION, *[shower(MONDAY, n) for n in range(5000)])
    process = start_export(configfile)
    with process:
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert err == b'datastore: interrupted\n'
    assert process.returncode == 130


# What goes wrong.


def test_no_rows_is_status_1_and_says_what_there_is(run, two_showers, tmp_path):
    output = tmp_path / 'export.csv'
    arguments = '--table', 'weather', '-o', output
    status, out, err = run(STATION, '2020-02-03', '2020-02-04', *arguments)
    assert (status, out) == (1, b'')
    assert err.endswith('; its files hold errors, events\n')
    assert not output.exists()


def test_data_dir_that_is_not_there_is_said_and_not_made(run, data_dir):
    status, _, err = run(STATION, '2020-02-03', '2020-02-04')
    assert status == 1
    assert f'data_dir in [General]: {data_dir} is no directory' in err
    assert not data_dir.exists()


def test_copy_of_the_archive_alone_is_read_and_stays_as_it_is(run, files, data_dir):
    files.store(STATION, shower(MONDAY))
    for name in ('tmp', 'incoming', 'rejected'):
        (data_dir / name).rmdir()
    before = sorted(data_dir.rglob('*'))

    status, out, err = run(STATION, '2020-02-03', '2020-02-04')

    assert (status, err) == (0, '')
    assert len(read_csv(out)) == 1
    assert sorted(data_dir.rglob('*')) == before


@pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
def test_root_is_not_to_replay_what_the_writer_owns(run, files, data_dir):
    files.store(STATION, shower(MONDAY))
    os.chown(data_dir, 54321, -1)

    status, out, err = run(STATION, '2020-02-03', '2020-02-04')

    assert (status, out) == (1, b'')
    assert 'belongs to user #54321' in err


@pytest.mark.skipif(os.geteuid() != 0, reason='takes root to be another user')
@pytest.mark.parametrize(
    ('mode', 'complaint'),
    [(0o711, ''), (0o700, 'Permission denied')],
    ids=['may enter', 'may not'],
)
def test_who_may_enter_directories_need_not_list_them(
    public_directory, capfdbinary, mode, complaint
):
    configfile = write_config(public_directory)
    data_dir = public_directory / 'data'
    path = DayFiles(data_dir).store(STATION, shower(MONDAY))
    path.chmod(0o644)
    for directory in path.relative_to(data_dir).parents:
        (data_dir / directory).chmod(0o711)
    data_dir.chmod(mode)
    arguments = [str(STATION), '2020-02-03', '2020-02-04']

    os.seteuid(NOBODY)
    try:
        status = cli.main(['export', *arguments, '--config', str(configfile)])
    finally:
        os.seteuid(0)

    out, err = capfdbinary.readouterr()
    assert complaint in err.decode()
    assert (status, len(read_csv(out))) == ((1, 0) if complaint else (0, 1))


def test_no_file_is_status_1(run, two_showers):
    status, _, err = run(STATION, '2020-03-01', '2020-04-01')
    assert status == 1
    assert err.endswith('; there is no file of it on these days\n')


@pytest.mark.parametrize(
    'content', [b'no zlib', zlib.compress(b'31,x'), zlib.compress(b'31,30')[:-3]]
)
def test_bad_trace_is_left_empty_and_said(run, files, content):
    bad = b64encode(content).decode()
    files.store(STATION, shower(MONDAY, TR1=bad, TR2=trace(1)))
    status, out, err = run(STATION, '2020-02-03', '2020-02-04', '--blobs')
    assert status == 1
    assert err.startswith('datastore: 1 traces could not be decoded')
    (row,) = read_csv(out)
    assert (row['traces_1'], row['traces_2']) == ('', '1')


def test_row_that_refers_to_no_blob_is_damage(run, files):
    source = files.store(STATION, shower(MONDAY, TR1=trace(1)))
    with h5py.File(source, 'r+') as file:
        file[f'hisparc/cluster_science park/station_{STATION}/blobs'].resize((0,))
    status, _, err = run(STATION, '2020-02-03', '2020-02-04', '--blobs')
    assert status == 1
    assert 'refers to blobs that are not there' in err


def test_missing_library_is_named(run, two_showers, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    status, _, err = run(STATION, '2020-02-03', '2020-02-04', '--format', 'parquet')
    assert status == 1
    assert err == 'datastore: parquet needs pyarrow: pip install pyarrow\n'


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (['501', '2020-02-04', '2020-02-04'], 'is not after START'),
        (['501', '2020-02-04', 'soon'], 'soon is not a date or time such as'),
        (['501', '2020-02-04', '2020-02-05T00:00+00:00'], 'without a time zone'),
        (['501', '2020-02-04', '2020-02-05T00:00:00.5'], 'in whole seconds'),
        (['x', '2020-02-04', '2020-02-05'], 'is not the number of a station'),
        (['501', '2020-02-04', '2020-02-05', '--table', 'muons'], "'events', 'errors'"),
        (['501', '2020-02-04', '2020-02-05', '--format', 'xls'], "'npz', 'parquet'"),
    ],
    ids=['empty', 'word', 'zone', 'fraction', 'station', 'table', 'format'],
)
def test_wrong_call_is_status_2(run, arguments, complaint):
    status, out, err = run(*arguments)
    assert (status, out) == (2, b'')
    assert complaint in err
