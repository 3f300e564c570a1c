"""Opens a program's log: files that rotate at midnight, or standard error."""

import logging
import sys
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path

from datastore import durable
from datastore.config import Config, blaming

FORMAT = '%(asctime)s %(levelname)s %(message)s'
DAYS_KEPT = 14


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
    handler.setFormatter(logging.Formatter(FORMAT))
    for previous in logger.handlers[:]:
        logger.removeHandler(previous)
        previous.close()
    logger.addHandler(handler)
    logger.setLevel(config.loglevel)
    logger.propagate = False
