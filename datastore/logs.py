"""Opens a program's log: files that rotate at midnight, or standard error.

A line is text or a JSON object, as `log_format` says.  What it is about is
given beside the message, as fields:

    logger.info('station %d: ...', 501, extra={'upload': 'b0a1c2d3', 'events': 7})

JSON has all of them; text has the message, which says most of them, and the
ids of uploads.  Whatever a station sent, it ends no line: control characters
are escaped, and the lines of a traceback start with spaces.
"""

import contextlib
import json
import logging
import re
import sys
import time
from datetime import datetime, timezone
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path
from typing import Any

from datastore import durable
from datastore.config import Config, blaming

DAYS_KEPT = 14

# What ends a line for somebody (str.splitlines, terminals), or moves a cursor.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029]')

# What every record has; the rest are fields.
_NOT_FIELDS = frozenset(vars(logging.makeLogRecord({})))


def open_log(logger: logging.Logger, config: Config, program: str) -> None:
    """Send what `logger` and its children say to the log that `config` names.

    That is `<log>-<program>`, or standard error if `log = -`; a log that the
    logger had before is closed.  Raises ConfigError if the file cannot be
    opened.
    """
    handler: logging.Handler
    if config.log == '-':
        handler = logging.StreamHandler(sys.stderr)
    else:
        path = Path(f'{config.log}-{program}')
        with blaming(config, 'log'):
            durable.make_directory(path.parent)
            handler = TimedRotatingFileHandler(
                path,
                when='midnight',
                backupCount=DAYS_KEPT,
                encoding='utf-8',
                errors='backslashreplace',  # stations may send lone surrogates
            )
        _remove_old(path)
    is_json = config.log_format == 'json'
    handler.setFormatter(_JsonFormatter(program) if is_json else _TextFormatter())
    for previous in logger.handlers[:]:
        logger.removeHandler(previous)
        previous.close()
    logger.addHandler(handler)
    logger.setLevel(config.loglevel)
    logger.propagate = False


def _remove_old(log: Path) -> None:
    """Remove what processes left that had the same log but for their number.

    Nobody rotates the logs of a worker that is gone.  One that is there and has
    said nothing for as long begins another file before it says something.
    """
    match = re.fullmatch(r'(.*)\.[0-9]+', log.name)
    if match is None:
        return
    name = re.compile(rf'{re.escape(match[1])}\.[0-9]+(\.[0-9-]{{10}})?')
    oldest = time.time() - DAYS_KEPT * 86400
    # No old log stops a start; a directory may be written to and not listed.
    with contextlib.suppress(OSError):
        for path in log.parent.iterdir():
            if path != log and name.fullmatch(path.name):
                # Another worker may do the same just now.
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()


class _TextFormatter(logging.Formatter):
    """Moment, level, message, and the uploads it is about; for people."""

    def format(self, record: logging.LogRecord) -> str:
        message = _escaped(record.getMessage())
        line = f'{self.formatTime(record)} {record.levelname} {message}'
        upload = getattr(record, 'upload', None)
        uploads = getattr(record, 'uploads', None)
        if upload is not None:
            line += f' (upload {upload})'
        if uploads:
            line += f' (uploads {" ".join(uploads)})'
        if not record.exc_info:
            return line
        # With the id, so that a search for it finds the traceback, too.
        start = '    ' if upload is None else f'    {upload} | '
        traceback = self.formatException(record.exc_info)
        lines = [start + _escaped(text) for text in traceback.split('\n')]
        return '\n'.join([line, *lines])


class _JsonFormatter(logging.Formatter):
    """An object with the message and all fields; for programs."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        document: dict[str, Any] = {
            'time': moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z'),
            'level': record.levelname,
            'program': self._program,
            'logger': record.name,
            'message': record.getMessage(),
        }
        fields = vars(record)
        document |= {name: fields[name] for name in fields if name not in _NOT_FIELDS}
        if record.exc_info:
            document['exception'] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
