"""Person 0 of Market's names is a distractor; where it looks like a person, a warning says that it is left out."""

import logging

import pytest

from da_lightning.reid.data import _say_what_is_left_out


@pytest.mark.parametrize(
    ("counts", "level"),
    [
        ({0: 12, 1: 11, 2: 14, 3: 12}, logging.WARNING),  # numbered from 0
        ({0: 3, 1: 4}, logging.WARNING),
        ({0: 2798, -1: 3819, 1: 15, 2: 20, 5: 30}, logging.INFO),  # Market-1501's gallery
        ({0: 1, 1: 12, 2: 12}, logging.INFO),
        ({-1: 12, 1: 12}, logging.INFO),
        ({1: 12, 2: 12}, None),
        ({0: 12}, logging.INFO),
    ],
)
def test_person_zero(counts, level, caplog):
    with caplog.at_level(logging.INFO):
        _say_what_is_left_out([person for person, count in counts.items() for _ in range(count)])
    assert max((record.levelno for record in caplog.records), default=None) == level
    if level == logging.WARNING:
        assert f"Person 0 has {counts[0]} source images, about as many as the others" in caplog.text
