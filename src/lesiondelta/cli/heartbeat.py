"""Signs of life without a terminal: a line every half minute of what is done, and of how long the rest takes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

EVERY_S = 30.0
SETTLING_S = 5.0
"""What is counted as done so soon was done before."""


@dataclass
class Heartbeat:
    """How far a piece of work has come.

    Attributes
    ----------
    total : int or None
        Steps in all, where they are known.
    doing : what is done at present
    """

    what: str
    total: int | None
    done: float = 0
    doing: str = ""
    started: float = field(default_factory=monotonic)
    resumed: tuple[float, float] | None = None

    def advance(self, doing: str | None, steps: float) -> None:
        """Go on; what is done within the first seconds was done by an earlier run, and says nothing of the pace."""
        self.done += steps
        self.doing = (doing or self.doing).partition("\n")[0]
        if monotonic() - self.started < SETTLING_S:
            self.resumed = (monotonic(), self.done)

    def line(self) -> str:
        """Such as "training: 3 of 40, 2 min, about 25 min left (epoch 3)"."""
        passed = monotonic() - self.started
        said = [f"{self.done:g} of {self.total}" if self.total else "at work", told(passed)]
        since, before = self.resumed or (self.started, 0)
        if self.total and before < self.done < self.total:
            pace = (monotonic() - since) / (self.done - before)
            said.append(f"about {told(pace * (self.total - self.done))} left")
        doing = f" ({self.doing})" if self.doing and self.doing != self.what else ""
        return f"{self.what}: {', '.join(said)}{doing}"

    @contextmanager
    def beating(self, say: Callable[[str], None]) -> Iterator[None]:
        """Say the line again and again, until the work ends."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(EVERY_S):
                say(self.line())

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def told(seconds: float) -> str:
    """A duration in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
