"""What names an upload, from its request to the commit of its last event.

Eight hex digits: the endpoint draws them, the spool file's name carries them,
and every line of a log about the upload holds them.
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator

_IN_NAME = slice(-len('01234567.batch'), -len('.batch'))
_NAME = re.compile(r'.*-(?P<id>[0-9a-f]{8})\.batch', re.DOTALL)
_IDS_IN_A_LINE = 100  # 900 characters


def new_upload_id() -> str:
    """Return an id that no other upload of these days is likely to have."""
    return os.urandom(4).hex()


def upload_id(name: str) -> str | None:
    """Return the id of the upload whose file is called `name`; None if it has none."""
    match = _NAME.fullmatch(name)
    return match['id'] if match else None


def uploads_in_lines(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the ids in names of spool files, as many together as fit a line of a log.

    In the order in which the uploads came; one empty list if there are none.
    """
    # Without a look at each: there may be 16,000 a second.
    ids = (name[_IN_NAME] for name in sorted(names))
    yield list(itertools.islice(ids, _IDS_IN_A_LINE))
    while line := list(itertools.islice(ids, _IDS_IN_A_LINE)):
        yield line
