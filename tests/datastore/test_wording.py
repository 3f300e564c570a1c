"""How long and how large things are, as people read it."""

import pytest

from datastore.wording import duration, size


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0, '0 s'),
        (0.4, '0 s'),
        (119, '119 s'),
        (120, '2 min'),
        (7199, '120 min'),
        (7200, '2 h'),
        (48 * 3600, '2 days'),
        (400 * 86400, '400 days'),
    ],
)
def test_duration_has_a_unit_that_it_is_at_least_two_of(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ('count', 'text'),
    [
        (0, '0 bytes'),
        (1023, '1023 bytes'),
        (1024, '1.0 KiB'),
        (1.5 * 2**30, '1.5 GiB'),
        (3 * 2**50, '3072.0 TiB'),
    ],
)
def test_size_has_a_unit_that_it_is_at_least_one_of(count, text):
    assert size(count) == text
