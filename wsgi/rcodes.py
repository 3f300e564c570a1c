"""The codes stations understand, one exception each.

A station deletes its own copy of a batch when it reads 100, and sends it
again, for ever, when it reads anything else.  202, 204, 207 (upload code,
event exists, event type) and 404 (database unreachable) belong to the same
numbering and are not answered.
"""

OK = 100


class UploadError(Exception):
    """The upload is refused; `rcode` is what the station is told."""

    rcode: int


class ChecksumMismatch(UploadError):
    """The checksum does not match the data."""

    rcode = 201


class WrongPassword(UploadError):
    """The password is not the station's."""

    rcode = 203


class TransactionFailed(UploadError):
    """The batch cannot be spooled now; a retry may succeed."""

    rcode = 205


class UnknownStation(UploadError):
    """The station is not in the station list."""

    rcode = 206


class NotAnEventList(UploadError):
    """The data cannot be unpickled, or is not an event list."""

    rcode = 208


class InvalidPost(UploadError):
    """A field of the form is missing or malformed, or the body is too large."""

    rcode = 400


INTERNAL_ERROR = 400  # what the station is told about a fault of ours
