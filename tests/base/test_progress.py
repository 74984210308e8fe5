"""Progress in a log: a line at most every so many seconds, also during a long step, with the time that is left."""

from __future__ import annotations

import re
import time

import pytest

from sparsing.base import progress
from sparsing.base.progress import Progress, duration


def test_lines_in_a_log(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_SEC", 0.05)
    shown = Progress()
    shown.plan("measure PPL-1%", 1000)
    shown.pace(0.5)
    with shown.bar("try 2 of about 6: cett 0.1", 200) as advance:
        advance(50)
        time.sleep(0.2)  # one long step
    captured = capsys.readouterr()
    first, *lines = captured.err.splitlines()
    assert first == "measure PPL-1%: about 8 min 20 s, by the time of the first batches"
    assert len(lines) >= 2
    pattern = r"measure PPL-1%: try 2 of about 6: cett 0\.1, 25% of 200; about .* left"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert captured.out == ""


class Clock:
    """Stands for the module `time`: it moves only when a test moves it."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


def test_the_time_left_of_a_slow_part_is_not_that_of_the_parts_after_it(monkeypatch):
    monkeypatch.setattr(progress, "time", clock := Clock())
    shown = Progress(False)
    shown.plan("measure", 1000)
    shown.pace(1.0)
    seen = []
    parts = [progress._Part("pass", 100, 0, usual) for usual in (False, True)]
    for part, sec_each in zip(parts, (6.0, 1.5), strict=True):
        part._began = clock.now
        monkeypatch.setattr(progress, "_Part", lambda *_, part=part: part)
        with shown.bar("pass", 100) as advance:
            for _ in range(5):
                clock.now += 10 * sec_each
                advance(10)
            seen.append(shown._left(part))
            clock.now += 50 * sec_each
            advance(50)
    # Half of the slow part leaves 50 of its units at 6 s, and 900 units of other parts at 1 s, the given pace.
    # Half of the usual part leaves 850 units at its own 1.5 s.
    assert seen == [f"about {duration(50 * 6 + 900)} left", f"about {duration(850 * 1.5)} left"]


def test_units_of_an_earlier_run_count_no_time(monkeypatch):
    monkeypatch.setattr(progress, "time", clock := Clock())
    shown = Progress(False)
    shown.plan("measure", 1000)
    part = progress._Part("pass", 1000, 800, True)
    monkeypatch.setattr(progress, "_Part", lambda *_: part)
    with shown.bar("pass", 1000, 800) as advance:
        clock.now += 100
        advance(100)
        assert shown._left(part) == f"about {duration(100)} left"


def test_nothing_is_shown_on_request(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_SEC", 0.01)
    quiet = Progress(False)
    quiet.plan("measure", 10)
    quiet.pace(1.0)
    with quiet.bar("pass", 10) as advance:
        advance(10)
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_the_thread_ends_with_the_bar(capsys):
    import threading

    before = threading.active_count()
    with pytest.raises(RuntimeError), Progress().bar("pass", 10):
        raise RuntimeError
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("seconds", "text"), [(41.4, "41 s"), (200, "3 min 20 s"), (700, "11 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
