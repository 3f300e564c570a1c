"""Looks for what keeps a deployment from working, without changing anything.

Each check yields findings: what is well, and what is not, with how to mend it.
"""

import contextlib
import ctypes
import errno
import os
import pwd
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datastore import layout
from datastore.config import Config
from datastore.durable import check_writable
from datastore.heartbeat import writer_status
from datastore.spool import DEBRIS_AGE, count_rejected, measure_backlog
from datastore.suspicious import count_suspicious
from datastore.wording import duration, size

OK, WARNING, FAULT = 'ok', 'warning', 'fault'

# Below data_dir, as both programs make them at their first start.
_DIRECTORIES = ('tmp', 'incoming', 'suspicious', 'rejected', 'status')

_SLOW_FSYNC = 1.0  # s; an upload takes two or three
_FEW_INODES = 0.01  # of all
_SMALL_UPLOAD = 2**20  # bytes; stations send up to some 100 KiB at a time
_LITTLE_SPACE = 2**30  # bytes, where min_free_space is off

_STUCK = 900  # s; the writer tries again what is hindered every five minutes

_MAKE = 'install -d -m 750 -o USER -g GROUP'
_MAKE_ROOM = 'make room: move old days of the archive elsewhere, or enlarge the disk'
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_LOCKS = Path('/proc/locks')  # see proc_locks(5)

# File systems that forget at a power cut, and those of other machines.
_FORGETFUL = {'tmpfs', 'ramfs'}
_REMOTE = {'nfs', 'nfs4', 'cifs', 'smb3', '9p', 'fuse.sshfs'}


class Finding(NamedTuple):
    """One thing that was looked at.

    `level` is OK, WARNING or FAULT; `mend` says what to do, where something is.
    """

    level: str
    subject: str
    found: str
    mend: str = ''


def check_all(config: Config) -> Iterator[Finding]:
    """Yield what is found around a configuration that can be read."""
    yield from check_user(config)
    yield from check_directories(config)
    yield from check_log(config)
    yield from check_space(config)
    yield from check_limits(config)
    yield from check_clock()
    yield from check_writer(config)
    yield from check_spool(config)
    yield from check_leftovers(config)


def check_user(config: Config) -> Iterator[Finding]:
    """Look at whether this user is the one that the programs run as."""
    try:
        owner = config.data_dir.stat().st_uid
    except OSError:
        return  # which check_directories tells
    name, me = _user(owner), _user(os.geteuid())
    if owner == os.geteuid():
        yield Finding(OK, 'user', f'{me} owns {config.data_dir}')
        return
    mend = f'run this as the user of both programs: sudo -u {name} datastore check'
    if owner == 0:  # whom few users may become with sudo
        mend = f'run this as root, if both programs do; else {_own(config.data_dir)}'
    yield Finding(
        WARNING,
        'user',
        f'you are {me}, and {config.data_dir} belongs to {name}: '
        'what they may do is not known',
        mend,
    )


def check_directories(config: Config) -> Iterator[Finding]:
    """Look at whether batches can be put safely where they are to be."""
    data_dir = config.data_dir
    if not data_dir.is_dir():
        yield Finding(
            FAULT,
            'data_dir',
            f'{data_dir} is not a directory',
            f'make it, and give it to the user of both programs: {_MAKE} {data_dir}',
        )
        return
    kind = _file_system(data_dir)
    if kind in _FORGETFUL:
        yield Finding(
            FAULT,
            'data_dir',
            f'{data_dir} is in memory ({kind}), and lost when the power is cut',
            'choose a directory on a disk',
        )
    if kind in _REMOTE:
        yield Finding(
            WARNING,
            'data_dir',
            f'{data_dir} is on another machine ({kind}), where locks and fsync '
            'may not hold what they promise',
            'choose a directory on a disk of this machine',
        )
    if data_dir.stat().st_mode & stat.S_IRWXO:
        yield Finding(
            WARNING,
            'data_dir',
            f'everybody on this machine may look into {data_dir}, and CFG events '
            'hold passwords',
            f'chmod o-rwx {data_dir}',
        )
    device = data_dir.stat().st_dev
    yield _check_directory(data_dir, device)
    running = _running(data_dir)
    for directory in (data_dir / name for name in _DIRECTORIES):
        yield _check_directory(directory, device, running)
    days = [path for path in data_dir.glob(layout.DAYS) if path.is_dir()]
    if days:  # the one that was written to last, to stand for all
        directory = min(days, key=_age)
        # Years may be on a disk of their own: their drafts are made there.
        yield _check_directory(directory, None)


def _check_directory(
    directory: Path, device: int | None, running: int | None = None
) -> Finding:
    """Look at one directory, which is to be on `device` if one is given.

    `running` is a process of the programs, if one is known.
    """
    subject = str(directory)
    try:
        found = directory.stat()
    except FileNotFoundError:
        return _missing(directory, running)
    except OSError as error:
        return Finding(FAULT, subject, str(error), _own(directory))
    if not stat.S_ISDIR(found.st_mode):
        return Finding(FAULT, subject, 'is not a directory', 'move it out of the way')
    if device is not None and found.st_dev != device:
        return Finding(
            FAULT,
            subject,
            'it is on another file system than data_dir, so that files cannot be '
            'renamed into it',
            'put all of data_dir on one file system',
        )
    started = time.monotonic()
    try:
        os.listdir(directory)
        check_writable(directory)
    except OSError as error:
        return Finding(
            FAULT,
            subject,
            f'{_user(os.geteuid())} cannot write there: {error.strerror}',
            _MAKE_ROOM if error.errno in _NO_ROOM else _own(directory),
        )
    took = time.monotonic() - started
    if took > _SLOW_FSYNC:
        return Finding(
            WARNING,
            subject,
            f'to put a byte on the disk took {took:.1f} s',
            'look for what keeps the disk busy, and whether it fails: dmesg, iostat',
        )
    return Finding(OK, subject, f'writable, fsync in {took * 1000:.1f} ms')


def _missing(directory: Path, running: int | None) -> Finding:
    """Say what becomes of a directory that the programs make at their start."""
    restart = 'systemctl restart datastore-wsgi datastore-writer'
    if directory.name == 'tmp':
        return Finding(
            WARNING,
            str(directory),
            'it is not there',
            'nothing to do: it is made when it is needed',
        )
    if running is None:
        return Finding(
            WARNING,
            str(directory),
            'it is not there yet',
            'both programs make it when they start; if they run, restart them: '
            f'{restart}',
        )
    return Finding(
        FAULT,
        str(directory),
        f'it is not there, though process {running} has started: uploads may be '
        'answered 205, or stay in the spool',
        f'restart both programs, which make it when they start: {restart}',
    )


def check_log(config: Config) -> Iterator[Finding]:
    """Look at whether a log can be opened."""
    if config.log == '-':
        yield Finding(OK, 'log', 'goes to standard error')
        return
    directory = Path(config.log).parent
    # It is made at the start, as far as permissions go.
    above = next(p for p in (directory, *directory.parents) if os.path.lexists(p))
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        well = 'is writable' if above == directory else 'can be made'
        yield Finding(OK, 'log', f'{directory} {well}')
        return
    # What is there already may be of the whole system, as /var/log is: it is
    # never to be given away.
    if not above.is_dir():
        mend = f'{above} is not a directory: name another in log'
    elif above != directory:
        mend = f'make {directory}, for the user of both programs: {_MAKE} {directory}'
    else:
        mend = (
            f'if {directory} is of these logs alone: chown USER: {directory}; else '
            f'name a directory of their own in log, and make it: {_MAKE} DIRECTORY'
        )
    yield Finding(
        FAULT,
        'log',
        f'{_user(os.geteuid())} cannot write to {above}: neither program starts '
        'without its log',
        f'{mend}; or set log = -',
    )


def check_space(config: Config) -> Iterator[Finding]:
    """Look at what is left on the disk."""
    try:
        disk = os.statvfs(config.data_dir)
    except OSError:
        return  # which check_directories tells
    free = disk.f_bavail * disk.f_frsize
    least = config.min_free_space
    told = f'{size(free)} free'
    mend = _MAKE_ROOM
    if least is not None and free < least:
        level = FAULT
        told += f', below min_free_space = {size(least)}: answered 205'
    elif free < (2 * least if least is not None else _LITTLE_SPACE):
        level, told = WARNING, f'only {told}'
    else:
        level, mend = OK, ''
    yield Finding(level, 'disk', told, mend)
    if disk.f_files and disk.f_favail < disk.f_files * _FEW_INODES:
        yield Finding(
            FAULT if not disk.f_favail else WARNING,
            'disk',
            f'{disk.f_favail:,} more files can be made',
            'remove small files, or use a file system with more inodes',
        )


def check_limits(config: Config) -> Iterator[Finding]:
    """Look at limits that would shut a station out for ever."""
    if config.max_spool_size is not None and config.max_spool_size < config.max_upload:
        yield Finding(
            FAULT,
            'max_spool_size',
            f'{size(config.max_spool_size)} are less than max_upload, '
            f'{size(config.max_upload)}: an upload that large is never taken, and '
            'its station sends nothing else',
            'set max_spool_size to some hundred times max_upload, or off',
        )
    if config.max_upload < _SMALL_UPLOAD:
        yield Finding(
            WARNING,
            'max_upload',
            f'{size(config.max_upload)} are few: a station whose batch is larger '
            'is answered 400, and sends it for ever',
            'set max_upload = 16 MiB, and the limit of the web server in front too',
        )
    else:
        yield Finding(OK, 'max_upload', size(config.max_upload))


class _Timex(ctypes.Structure):
    """The start of `struct timex`; see adjtimex(2)."""

    _fields_ = (
        ('modes', ctypes.c_uint),
        ('offset', ctypes.c_long),
        ('freq', ctypes.c_long),
        ('maxerror', ctypes.c_long),
        ('esterror', ctypes.c_long),
        ('status', ctypes.c_int),
        ('rest', ctypes.c_char * 512),  # more than there is
    )


_STA_UNSYNC = 0x40


def check_clock() -> Iterator[Finding]:
    """Look at whether the kernel holds its clock to be right."""
    mend = 'install chrony or systemd-timesyncd, or see why it reaches no server'
    try:
        timex = _Timex(modes=0)  # which only asks
        answered = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        answered = -1
    if answered == -1:
        yield Finding(
            WARNING,
            'clock',
            'it is not known whether the clock is synchronised',
            'timedatectl may tell',
        )
    elif timex.status & _STA_UNSYNC:
        yield Finding(
            WARNING,
            'clock',
            'it is not synchronised: times of arrival, and what is held to be in '
            'the future, are by it',
            mend,
        )
    else:
        yield Finding(OK, 'clock', 'synchronised')


def check_writer(config: Config) -> Iterator[Finding]:
    """Look at whether a writer lives, and lives well."""
    mend = 'see its log, and start it: systemctl start datastore-writer'
    try:
        writer = writer_status(config, time.time())
        holder = _lock_holder(config.data_dir / 'writer.lock')
    except OSError as error:
        yield Finding(FAULT, 'writer', str(error), _own(config.data_dir))
        return
    if writer['reason'] is None and (holder is not None or writer['once']):
        yield Finding(OK, 'writer', f'process {writer["pid"]} is well')
    elif writer['reason'] is None:
        yield Finding(
            WARNING,
            'writer',
            'it gave a sign of life, but no process here holds its lock',
            f'unless it runs in a container, it died just now: {mend}',
        )
    elif holder is None:
        yield Finding(FAULT, 'writer', f'{writer["reason"]}; none is running', mend)
    else:
        yield Finding(
            FAULT,
            'writer',
            f'{writer["reason"]}, and process {holder} holds its lock',
            f'see its log; if it hangs: kill -9 {holder}, which loses nothing, and '
            'start it again',
        )


def check_spool(config: Config) -> Iterator[Finding]:
    """Look for batches that wait although the writer may be well."""
    with contextlib.suppress(OSError):  # which check_directories tells
        backlog = measure_backlog(config.data_dir)
        if backlog.unreadable:
            yield Finding(
                FAULT,
                'spool',
                f'{backlog.unreadable:,} files of batches that wait cannot be read',
                "the writer's log says which, and why: mend the disk, or give them "
                'back to the user of the service',
            )
        if backlog.oldest is None:
            return
        waits = time.time() - backlog.oldest
        if waits > _STUCK:
            yield Finding(
                WARNING,
                'spool',
                f'{backlog.batches:,} batches wait, the oldest for {duration(waits)}',
                "the writer's log says which file hinders it, and why",
            )


def check_leftovers(config: Config) -> Iterator[Finding]:
    """Look for what crashes left, and for what waits for a person."""
    data_dir = config.data_dir
    if not data_dir.is_dir():
        return
    journals = list(data_dir.glob(layout.JOURNALS))
    old = [path for path in journals if _age(path) > DEBRIS_AGE]
    if old:
        yield Finding(
            WARNING,
            'journals',
            f'{len(old)} were left by a crash, such as {old[0]}',
            'the writer replays them when it starts; its log says what hinders it',
        )
    orphans = list(data_dir.glob(layout.ORPHANS))
    if orphans:
        yield Finding(
            WARNING,
            'journals',
            f'{len(orphans)} are of files that somebody took away or replaced, such '
            f'as {orphans[0]}',
            'put a file that was taken away back, without the journal; remove that '
            'when datastore verify finds the file whole',
        )
    with contextlib.suppress(OSError):  # which check_directories tells
        if rejected := count_rejected(data_dir):
            yield Finding(
                WARNING,
                'rejected',
                f'{rejected} spool files could not be read',
                'see why: datastore rejected list',
            )
    with contextlib.suppress(OSError):  # which check_directories tells
        if suspicious := count_suspicious(data_dir):
            yield Finding(
                OK, 'suspicious', f'{suspicious} files wait for a person to look'
            )
    with contextlib.suppress(OSError):  # which check_directories tells
        debris = [e for e in (data_dir / 'tmp').iterdir() if _age(e) > 2 * DEBRIS_AGE]
        if debris:
            yield Finding(
                WARNING,
                'tmp',
                f'{len(debris)} files were left by crashes',
                'the writer removes them when it starts; they take space only',
            )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f'user {number}'


def _own(directory: Path) -> str:
    return f'give it to the user of both programs: chown -R USER: {directory}'


def _age(path: Path) -> float:
    """Return for how many seconds a file is there; 0 if it has gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _file_system(directory: Path) -> str:
    """Return the type of the file system of a directory, '' if it is not known."""
    best, kind = '', ''
    with contextlib.suppress(OSError):
        place = f'{directory.resolve()}/'
        for line in Path('/proc/mounts').read_text(errors='replace').splitlines():
            mount, mounted = line.split()[1:3]
            # A later mount hides an earlier one.
            if place.startswith(f'{mount.rstrip("/")}/') and len(mount) >= len(best):
                best, kind = mount, mounted
    return kind


def _running(data_dir: Path) -> int | None:
    """Return a process of one of the programs, None if none is known.

    The endpoint holds locks too: on its counts, from its first upload on.
    """
    locks = [data_dir / 'writer.lock', *data_dir.glob('status/*.tally')]
    with contextlib.suppress(OSError):
        return next(filter(None, map(_lock_holder, locks)), None)
    return None


def _lock_holder(path: Path) -> int | None:
    """Return the process that holds the lock on a file, None if none is known.

    As the kernel lists it: trying the lock could turn a writer away that
    starts just now.  Processes of other containers are not listed.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    device = f'{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}'
    for line in _LOCKS.read_text().splitlines():
        # 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
        fields = line.split()
        if fields[1] != 'FLOCK':
            continue
        listed, _, inode = fields[5].rpartition(':')
        if inode != str(found.st_ino):
            continue  # which is unique on its device only
        # Btrfs and overlays list another device than stat(2) gives.
        if listed == device or fields[4] == _written_in(path):
            return int(fields[4])
    return None


def _written_in(lock: Path) -> str | None:
    """Return the process that a lock file names, None if it cannot be read."""
    try:
        return lock.read_text(errors='replace').strip()
    except OSError:
        return None
