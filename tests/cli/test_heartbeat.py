"""Signs of life without a terminal."""

import time

import pytest

from lesiondelta.cli import console, heartbeat
from lesiondelta.cli.heartbeat import Heartbeat, told


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12600, "3.5 h")]
)
def test_durations_are_told_in_words(seconds, words):
    assert told(seconds) == words


def test_the_line_says_what_is_left(monkeypatch):
    heart = Heartbeat("training", 40)
    monkeypatch.setattr(heartbeat, "monotonic", lambda: heart.started + 120)
    assert heart.line() == "training: 0 of 40, 2 min"
    heart.done, heart.doing = 10, "epoch 10"
    assert heart.line() == "training: 10 of 40, 2 min, about 6 min left (epoch 10)"
    heart.resumed = (heart.started + 60, 5)  # five were done before
    assert heart.line() == "training: 10 of 40, 2 min, about 6 min left (epoch 10)"
    heart.done = 40
    assert heart.line() == "training: 40 of 40, 2 min (epoch 10)"
    other = Heartbeat("simulating a patient", None, started=heart.started)
    assert other.line() == "simulating a patient: at work, 2 min"


def test_it_beats_until_the_work_ends(monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.02)
    said = []
    with pytest.raises(ValueError, match="no"), Heartbeat("training", 2).beating(said.append):
        time.sleep(0.2)
        raise ValueError("no")
    counted = len(said)
    assert 3 <= counted <= 11
    time.sleep(0.1)
    assert len(said) == counted


def test_progress_beats_where_there_is_no_terminal(monkeypatch, capfd):
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.02)
    assert not console.errors.is_terminal
    with console.progress("training", 3) as advance:
        advance("sub-1 [bold]is done[/] :warning:\nand more")
        time.sleep(0.1)
    said = capfd.readouterr().err.splitlines()
    assert said
    assert "training: 1 of 3, 0 s (sub-1 [bold]is done[/] :warning:)" in said
