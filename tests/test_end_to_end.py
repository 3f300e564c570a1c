"""From a station's upload over HTTP to what scientists' programs read."""

import calendar
import json
import os
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zlib
from base64 import b64decode
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from support import (
    GROUP,
    PASSWORD,
    PROJECT,
    RECORDINGS,
    STATION,
    read_with_pytables,
    run_writer,
    stop,
    waiting_in,
)

from datastore.commands import serve
from datastore.simulation import Simulation
from datastore.station import Station, pickle_events, utc_now
from datastore.upload_codes import EVENT_TYPES

SERVE = [f'{sysconfig.get_path("scripts")}/datastore', 'serve']


def day_files(data_dir):
    """Return the day files, those of PyTables to be read."""
    return sorted(data_dir.glob('[0-9]*/[0-9]*/*/station_*.h5'))


def sent_tables(events):
    """Return the rows that uploaded events should become, one dict for each.

    Worked out value by value, with blobs in place of their indices.
    """
    tables = defaultdict(list)
    for event in events:
        header = event['header']
        table = EVENT_TYPES[header['eventtype_uploadcode']]
        row = {c.name: table.empty_row[c.name].tolist() for c in table.columns}
        for column in table.columns:
            if column.is_blob:
                row[column.name] = [None] * 4 if column.shape else None
        timestamp = calendar.timegm(header['datetime'].utctimetuple())
        row |= {'event_id': len(tables[table.name]) + 1, 'timestamp': timestamp}
        if 'nanoseconds' in row:
            row['nanoseconds'] = header['nanoseconds']
            row['ext_timestamp'] = timestamp * 10**9 + header['nanoseconds']
        for entry in event['datalist']:
            column, detector = vars(table.fields[entry['data_uploadcode']]).values()
            value = entry['data']
            if column.is_blob:
                is_trace = column.name == 'traces'
                value = b64decode(value) if is_trace else value.encode('latin-1')
            elif column.dtype == 'float32':
                value = float(np.float32(value))
            elif column.dtype != 'float64':
                value = int(value)  # numpy scalars, and fractions
            if detector is None:
                row[column.name] = value
            else:
                row[column.name][detector] = value
        tables[table.name].append(row)
    return dict(tables)


def stored_tables(path, group=GROUP):
    """Return the rows in a day file as PyTables reads them, in the same form."""
    leaves = read_with_pytables(path)
    blobs = leaves.get(f'{group}/blobs')
    tables = {}
    for leaf, rows in leaves.items():
        parent, _, name = leaf.rpartition('/')
        if parent != group or name == 'blobs':
            continue
        table = next(t for t in EVENT_TYPES.values() if t.name == name)
        tables[name] = []
        for row in rows:
            values = dict(zip(rows.dtype.names, row.tolist(), strict=True))
            for column in table.columns:
                if column.shape:
                    values[column.name] = list(row[column.name].tolist())
                if column.is_blob:
                    values[column.name] = _look_up(blobs, values[column.name])
            tables[name].append(values)
    return tables


def _look_up(blobs, index):
    if isinstance(index, list):
        return [_look_up(blobs, i) for i in index]
    return None if index == -1 else blobs[index]


def archived(configfile):
    """Run the writer for one sweep and return the only day file it made."""
    result = run_writer(configfile)
    assert result.returncode == 0, result.stderr
    (path,) = day_files(configfile.parent / 'data')
    return path


@pytest.mark.recording
@pytest.mark.parametrize(
    'name', ['py2_s510_100events', 'py2event', 'py3event', 'py2_pysparc_config']
)
def test_recording_is_found_in_the_archive_row_for_row_and_blob_for_blob(uwsgi, name):
    pickled = (RECORDINGS / name).read_bytes()
    station = Station(uwsgi.url, STATION, PASSWORD, tries=1)
    station.upload_pickle(pickled)
    path = archived(uwsgi.configfile)
    assert stored_tables(path) == sent_tables(pickle.loads(pickled, encoding='latin-1'))
    assert waiting_in(uwsgi.data_dir) == []


@pytest.mark.recording
def test_recorded_suspicious_event_is_kept_aside_with_its_reason(uwsgi):
    pickled = (RECORDINGS / 'suspicious_event').read_bytes()
    Station(uwsgi.url, STATION, PASSWORD, tries=1).upload_pickle(pickled)
    assert run_writer(uwsgi.configfile).returncode == 0
    assert day_files(uwsgi.data_dir) == []
    (kept,) = (uwsgi.data_dir / 'suspicious').iterdir()
    (flagged,) = json.loads(kept.read_text())['events']
    assert flagged['reasons'] == ['2011-02-22 13:24:57 is before 2016-01-01']


@pytest.fixture
def simulated():
    """300 events of one day in 2020: each of CFG, CIC, SIN and WTR."""
    return Simulation(datetime(2020, 5, 17, 9, 30), seed=7).take(300)


def test_simulated_events_are_archived_as_sent_and_processed_by_sapphire(
    uwsgi, simulated, tmp_path
):
    station = Station(uwsgi.url, STATION, PASSWORD, tries=1)
    for start in range(0, len(simulated), 100):
        station.upload(simulated[start : start + 100])
    path = archived(uwsgi.configfile)
    sent = sent_tables(simulated)
    assert set(sent) == {'config', 'events', 'singles', 'weather'}
    assert stored_tables(path) == sent

    script = PROJECT / 'tests' / 'sapphire_process.py'
    result = subprocess.run(
        [sys.executable, script, path, GROUP, tmp_path / 'results.h5'],
        stdout=subprocess.PIPE,
        check=True,
    )
    processed = json.loads(result.stdout)
    for name in ('events', 'singles', 'weather'):
        assert processed['counts'][name] == len(sent[name])
    assert processed['events with arrival times'] > 0


def test_traces_in_the_archive_are_still_compressed_adc_values(uwsgi, simulated):
    Station(uwsgi.url, STATION, PASSWORD, tries=1).upload(simulated)
    events = stored_tables(archived(uwsgi.configfile))['events']
    trace = zlib.decompress(events[0]['traces'][0]).decode('ascii')
    assert all(0 <= int(adc) < 4096 for adc in trace.split(','))


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=30):
    """Wait for another process to make `condition` true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'it does not happen'
        time.sleep(0.05)


@dataclass
class Served:
    """A running `datastore serve`."""

    process: subprocess.Popen
    url: str
    data_dir: Path
    output: Path

    @property
    def writer(self):
        """The process number of the writer, or None while there is none."""
        lock = self.data_dir / 'writer.lock'
        return int(lock.read_text() or 0) if lock.exists() else None

    @property
    def printed_station(self):
        """The arguments of the station line that it prints."""
        line = re.search(r'-m datastore\.station (.*)', self.output.read_text())
        return line[1].split()

    def has_archived_all(self):
        return day_files(self.data_dir) and not waiting_in(self.data_dir)


@pytest.fixture
def served(tmp_path):
    port, data_dir = free_port(), tmp_path / 'var'
    output = tmp_path / 'output'
    with output.open('w') as file:
        process = subprocess.Popen(
            [*SERVE, f'--port={port}', f'--data={data_dir}'],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
        )
    served = Served(process, f'http://127.0.0.1:{port}/', data_dir, output)
    wait_for(lambda: served.writer)
    yield served
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_served_datastore_archives_what_the_printed_station_line_uploads(served):
    result = subprocess.run(
        [sys.executable, '-m', 'datastore.station', *served.printed_station],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert 'uploaded 3 batches, 300 events' in result.stdout
    wait_for(served.has_archived_all)
    group = '/hisparc/cluster_science park/station_501'
    # The events of the last minutes may be of two days.
    tables = [stored_tables(path, group) for path in day_files(served.data_dir)]
    assert sum(len(rows) for table in tables for rows in table.values()) == 300


def test_writer_that_dies_is_started_again_and_archives_what_waited(served):
    first = served.writer
    os.kill(first, signal.SIGKILL)
    events = Simulation.ending(utc_now(), 10, seed=3).take(10)
    Station(served.url, 501, 'try-me').upload(events)
    wait_for(served.has_archived_all)
    assert served.writer != first
    assert 'respawning "exec' in served.output.read_text()


def test_interrupt_stops_both_programs_cleanly(served):
    writer = served.writer
    Station(served.url, 501, 'try-me').upload([])
    served.process.send_signal(signal.SIGINT)
    served.process.wait(30)
    assert served.output.read_text().count('INFO stopped') == 1
    with pytest.raises(ProcessLookupError):
        os.kill(writer, 0)


def test_writer_starts_from_paths_that_a_shell_and_uwsgi_would_split(
    tmp_path, monkeypatch
):
    directory = tmp_path / "a b, it's c\\d"
    directory.mkdir()
    python = directory / 'python'  # stands for the one of a virtual environment
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    configfile = serve.prepare(directory / 'var')

    command = serve.uwsgi_command(serve.find_uwsgi(), free_port(), configfile)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=PROJECT)
    try:
        wait_for((configfile.parent / 'status' / 'writer.json').exists)
    finally:
        stop(process)


def test_make_run_takes_a_directory_with_a_space():
    result = subprocess.run(
        ['make', '-n', '--no-print-directory', 'run', 'DATA=a b'],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shlex.split(result.stdout.splitlines()[-1])[-2:] == ['--data', 'a b']


def test_port_in_use_is_said_in_one_line(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        result = subprocess.run(
            [*SERVE, f'--port={port}', f'--data={tmp_path}'],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert result.returncode == 1
    assert result.stdout == ''
    assert result.stderr.count('\n') == 1
    assert f'cannot listen on 127.0.0.1:{port}: Address already in use' in result.stderr


def test_pickled_simulation_is_what_a_python_2_station_could_read(simulated):
    assert pickle.loads(pickle_events(simulated)) == simulated
