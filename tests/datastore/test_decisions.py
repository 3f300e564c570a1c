"""A decision is on disk when it is recorded, as is the record itself."""

import pytest

from datastore.decisions import Decisions


@pytest.fixture
def record(tmp_path):
    return tmp_path / 'decisions.jsonl'


def test_decision_is_safe_when_it_is_recorded_and_so_is_a_new_record(
    tmp_path, record, fsynced
):
    decisions = Decisions(tmp_path)

    decisions.append({'decision': 'released'})
    first = record.read_bytes()
    assert fsynced == [(record, first), (tmp_path, ['decisions.jsonl'])]

    decisions.append({'decision': 'discarded'})
    assert fsynced[2:] == [(record, record.read_bytes())]
    assert [made['decision'] for made in decisions.all()] == ['released', 'discarded']
