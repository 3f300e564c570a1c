"""A test bench: one datastore in a directory of its own, to be broken.

Real uWSGI, as `examples/` deploys it, and the real writer.
"""

import random
import re
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import chain
from pathlib import Path
from types import TracebackType

from chaos.child import Child, children_of
from chaos.events import CLUSTER, PASSWORD, STATIONS
from chaos.ledger import Ledger
from chaos.readers import Unreadable
from chaos.run import PROJECT, Run, Stuck
from datastore import layout
from datastore.config import Config
from datastore.spool import Spool

EXAMPLES = PROJECT / 'examples'
# Much faster than anybody would sweep, so that much is going on.
SLEEP = 0.02  # s between two sweeps


class Bench:
    """One datastore; everything it started is gone when it is closed.

    What happened, and how often, is counted in `happened`.  Files that were
    seen torn on the way are named in `unreadable`, and what else should never
    happen is said in `trouble`.
    """

    def __init__(self, run: Run, directory: Path, rng: random.Random) -> None:
        self.run = run
        self.directory = directory
        self.rng = rng
        self.data_dir = directory / 'data'
        self.ledger = Ledger()
        self.happened: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self.trouble: list[str] = []
        self.url = 'http://127.0.0.1:9/'  # the discard port, until uWSGI runs
        self.uwsgi: Child | None = None
        self.writer: Child | None = None
        self._halting: list[Callable[[], object]] = []
        self._closing: list[Callable[[], object]] = []
        self._starts = 0
        self._logged_before = 0
        directory.mkdir(parents=True)

    def __enter__(self) -> 'Bench':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def on_halt(self, function: Callable[[], object]) -> None:
        """Have `function` called when nothing shall run any more."""
        self._halting.append(function)

    def on_close(self, function: Callable[[], object]) -> None:
        """Have `function` called when nothing runs and all was looked at."""
        self._closing.append(function)

    def halt(self) -> None:
        """End everything that runs, the last one first."""
        while self._halting:
            self._halting.pop()()

    def close(self) -> None:
        """End, and undo, everything."""
        self.halt()
        while self._closing:
            self._closing.pop()()

    def child(self, command: Sequence[str], name: str, **env: str) -> Child:
        """Start a program that does not outlive the bench."""
        child = Child(self.run, command, self.directory / f'{name}.out', env)
        self.on_halt(child.kill)
        return child

    @property
    def configfile(self) -> Path:
        """The configuration of both programs; written when first asked for."""
        path = self.directory / 'config.ini'
        if not path.exists():
            stations = self.directory / 'station_list.csv'
            stations.write_text(
                ''.join(f'{number}, {CLUSTER}, {PASSWORD}\n' for number in STATIONS)
            )
            general: dict[str, object] = {
                'log': self.directory / 'log' / 'datastore',
                'station_list': stations,
                'data_dir': self.data_dir,
            }
            if 'min_free_space' in {key.name for key in fields(Config)}:
                general['min_free_space'] = 'off'
            lines = ['[General]', *(f'{key} = {text}' for key, text in general.items())]
            lines += ['[Writer]', f'sleep = {SLEEP}']
            path.write_text('\n'.join(lines) + '\n')
        return path

    # uWSGI

    def start_uwsgi(self) -> Child:
        """Start uWSGI on a port of its own choice, and wait until it serves."""
        assert self.uwsgi is None
        self._starts += 1
        text = (EXAMPLES / 'uwsgi.ini').read_text()
        text, replaced = re.subn(
            '^http-socket = .*$', 'http-socket = 127.0.0.1:0', text, flags=re.M
        )
        assert replaced == 1, 'examples/uwsgi.ini has no http-socket line'
        ini = self.directory / 'uwsgi.ini'
        ini.write_text(text)
        shutil.copy(EXAMPLES / 'application.wsgi', self.directory)
        scripts = sysconfig.get_path('scripts')
        uwsgi = shutil.which('uwsgi', path=scripts) or 'uwsgi'
        child = self.child(
            [uwsgi, '--ini', str(ini)],
            f'uwsgi-{self._starts}',
            DATASTORE_CONFIG=str(self.configfile),
        )
        bound = re.compile(r'bound to TCP address (127\.0\.0\.1:\d+)')

        def serves() -> bool:
            said = child.said()
            if child.status is not None:
                raise Stuck(f'uWSGI does not start:\n{said[-2000:]}')
            return 'spawned uWSGI worker 2' in said and bool(bound.search(said))

        self.run.wait_for(serves, 'uWSGI serves')
        match = bound.search(child.said())
        assert match
        self.url = f'http://{match[1]}/'
        self.uwsgi = child
        return child

    def kill_uwsgi(self) -> None:
        """Kill master and workers of uWSGI at once."""
        if self.uwsgi:
            self._check('uWSGI', self.uwsgi)
            self.uwsgi.kill()
            self.uwsgi = None

    def workers(self) -> list[int]:
        """Return the process numbers of uWSGI's workers."""
        return children_of(self.uwsgi.pid) if self.uwsgi else []

    # The writer

    def writer_command(self, *arguments: str) -> list[str]:
        """Return the command line of the writer."""
        config = str(self.configfile)
        return [sys.executable, '-m', 'writer', '--config', config, *arguments]

    def start_writer(self, prefix: Sequence[str] = ()) -> Child:
        """Start the writer; `prefix` goes before its command line."""
        assert self.writer is None
        self._starts += 1
        self._logged_before = len(self._writer_log())
        self.writer = self.child(
            [*prefix, *self.writer_command()], f'writer-{self._starts}'
        )
        return self.writer

    def supervise(self) -> Child:
        """Start the writer if it does not run, as a service manager would.

        On a broken disk it may not get as far as its work.  Raises Stuck if
        it ended by itself later than that.
        """
        if self.writer and self.writer.status is not None:
            if ' started' in self._writer_log()[self._logged_before :]:
                said = self.writer.said()[-2000:]
                raise Stuck(f'the writer ended by itself:\n{said}')
            self.happened['starts in vain'] += 1
            self.writer.kill()
            self.writer = None
        return self.writer or self.start_writer()

    def _writer_log(self) -> str:
        logs = sorted((self.directory / 'log').glob('*-writer'))
        return ''.join(path.read_text(errors='replace') for path in logs)

    def kill_writer(self, *, may_have_ended: bool = False) -> None:
        """Kill the writer, wherever it is.

        On a disk that is gone it may have ended by itself; else that is trouble.
        """
        if self.writer and may_have_ended:
            self.writer.kill()
            self.writer = None
        if self.writer:
            self._check('the writer', self.writer)
            self.writer.kill()
            self.writer = None

    def stop_writer(self) -> None:
        """Stop the writer as an operator does."""
        if self.writer:
            self._check('the writer', self.writer)
            if (status := self.writer.stop()) != 0:
                self.trouble.append(f'the writer stopped with exit status {status}')
            self.writer = None

    def sweep_once(self, prefix: Sequence[str] = ()) -> int:
        """Run the writer for one sweep, and return its exit status."""
        self._starts += 1
        command = [*prefix, *self.writer_command('--once')]
        return self.child(command, f'writer-{self._starts}').wait()

    def drain(self, seconds: float = 60) -> None:
        """Have the writer run until nothing waits in the spool, and stop it.

        Raises Stuck if the spool does not empty.
        """

        def is_empty() -> bool:
            self.supervise()
            return not self.waiting()

        self.run.wait_for(
            is_empty, 'the writer empties the spool; see the log', seconds
        )
        self.stop_writer()

    def day_files(self) -> list[Path]:
        """Return the stations' files of all days."""
        return sorted(self.data_dir.glob(layout.STATION_FILES))

    def look_at_files(self, when: str) -> None:
        """Note which day files cannot be read now that nothing runs."""
        for path in self.day_files():
            for name, reader in self.run.readers.all.items():
                try:
                    reader.read(path)
                except Unreadable as error:
                    self.unreadable.append(f'{path}, by {name}, {when}: {error}')

    def journals(self) -> list[Path]:
        """Return the journals beside day files."""
        return sorted(self.data_dir.glob('[0-9]*/**/*.journal'))

    def waiting(self) -> list[str]:
        """Return the names of what waits in the spool, or cannot be read there."""
        if not (self.data_dir / 'incoming').is_dir():
            return []
        found = Spool(self.data_dir).waiting()
        names = [*chain.from_iterable(found.batches.values()), *found.strangers]
        return sorted([*names, *map(str, found.unreadable)])

    def _check(self, name: str, child: Child) -> None:
        """Note that a program has ended though nobody has told it to."""
        if child.status is not None:
            self.trouble.append(
                f'{name} ended by itself, exit status {child.status}:\n'
                f'{child.said()[-2000:]}'
            )

    def logs(self) -> str:
        """Return what both programs have logged."""
        logs = sorted((self.directory / 'log').glob('*'))
        return ''.join(path.read_text(errors='replace') for path in logs)

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.directory)
