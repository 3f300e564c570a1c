"""What is said where the server writes its log, while there is none of ours."""

from typing import Any


def say(environ: dict[str, Any], text: str) -> None:
    """Write to the server's log, at once: uWSGI keeps what is not flushed."""
    errors = environ['wsgi.errors']
    errors.write(text.rstrip('\n') + '\n')
    errors.flush()
