"""What tests share that is not a fixture: real servers, and readers of files."""

import os
import pickle
import re
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
STATION, CLUSTER, PASSWORD = 510, 'Science Park', 'a secret'
GROUP = f'/hisparc/cluster_science park/station_{STATION}'

# Uploads of real stations, which are not part of the project.
RECORDINGS = PROJECT.parent / 'shared' / 'data' / 'uploads'


def read_with_pytables(path: Path) -> dict[str, Any]:
    """Return what PyTables finds in a file, by path of the leaf.

    A table is a numpy array; a VLArray a list of bytes; anything else fails.
    In a process of its own: h5py and PyTables may not share one.
    """
    script = Path(__file__).with_name('pytables_dump.py')
    result = subprocess.run(
        [sys.executable, script, path], stdout=subprocess.PIPE, check=True
    )
    return pickle.loads(result.stdout)


def run_writer(configfile: Path) -> subprocess.CompletedProcess[str]:
    """Run the writer as a program, for one sweep."""
    return subprocess.run(
        [sys.executable, '-m', 'writer', '--config', configfile, '--once'],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass
class Server:
    """A real uWSGI that runs `examples/application.wsgi`."""

    url: str
    configfile: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def data_dir(self) -> Path:
        return self.configfile.parent / 'data'


def start_uwsgi(configfile: Path, *options: str) -> Server:
    """Start uWSGI on a free port of 127.0.0.1, which uWSGI chooses."""
    log = configfile.parent / 'uwsgi.log'
    command = [
        f'{sysconfig.get_path("scripts")}/uwsgi',
        '--http-socket=127.0.0.1:0',
        f'--wsgi-file={PROJECT}/examples/application.wsgi',
        f'--pythonpath={PROJECT}',
        '--master',
        '--processes=2',
        '--lazy-apps',
        '--need-app',
        '--die-on-term',
        *options,
    ]
    environment = os.environ | {'DATASTORE_CONFIG': str(configfile)}
    with log.open('wb') as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    started = time.monotonic()
    while True:
        said = log.read_text()
        port = re.search(r'bound to TCP address 127\.0\.0\.1:(\d+)', said)
        if port and said.count('ready in') >= 2:
            return Server(f'http://127.0.0.1:{port[1]}/', configfile, process, log)
        if process.poll() is not None or time.monotonic() - started > 30:
            stop(process)
            raise RuntimeError(f'uWSGI did not start:\n{said}')
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
