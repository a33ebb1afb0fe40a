"""Records of drops that were read ahead: who gets them, and when they are forgotten."""

import numpy as np

from iptrec.packets.drop_ahead import Ahead
from iptrec.packets.drop_records import Records


def records(*times_ns):
    """Some of these times."""
    none = Records.none()
    columns = {name: np.zeros(len(times_ns), one.dtype) for name, one in none._asdict().items()}
    return Records(**columns | {"time_ns": np.array(times_ns, np.int64)})


def ahead():
    """Two parts; 25 may come late."""
    found = Ahead()
    found.add(records(10, 25, 12), np.array([False, True, False]))
    found.add(records(20, 30), np.array([False, False]))
    return found


def times(found):
    """Those of records."""
    return found.time_ns.tolist()


def test_near_records_and_late_ones_come_in_their_order():
    """A record of a later time waits, one that may be of a packet long before does not."""
    found = ahead()
    assert times(found.until(12)) == [10, 25, 12]
    assert times(found.until(20)) == [10, 25, 12, 20]
    assert times(found.until(5)) == [25]
    assert len(found) == 5


def test_what_was_used_is_forgotten():
    """Also in parts of which not all was given; a second look does not have it any more."""
    found = ahead()
    found.until(20)
    found.forget(np.array([True, False, False, True]))
    assert times(found.until(100)) == [25, 12, 30]
    found.forget(np.array([True, True, True]))
    assert len(found) == 0
    assert times(found.until(100)) == []


def test_earlier_records_are_left_behind():
    """Late or not."""
    found = ahead()
    found.leave_behind(26)
    assert times(found.until(100)) == [30]
