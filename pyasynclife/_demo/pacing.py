"""Decides how many updates the server has to send at each tick."""

from time import monotonic

PATIENCE = 0.25  # seconds of silence after which the client counts as stuck
MAX_DEBT = 1.0  # missed updates to make up for later, in seconds of the rate
CATCH_UP = 0.25  # how fast they are made up for, as a share of the rate


class Pacer:
    """Keeps an average rate: the next tick makes up for the updates a late one missed.

    The client sends the rate again and again. If it stops, the server sends nothing, so
    the number of updates in flight stays bounded. `PATIENCE` is far above the latencies
    that matter, so this does not flatter a client that is merely slow.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.last_message = self.last = monotonic()
        self.owed = 0.0
        self.debt = 0.0

    def set_rate(self, rate: float) -> None:
        """Set the rate that the client has sent, which shows that it is responsive."""
        self.rate = rate
        self.last_message = monotonic()

    def tick(self) -> float:
        """Return the number of updates owed by now."""
        now = monotonic()
        due = (now - self.last) * self.rate
        self.last = now
        if now - self.last_message > PATIENCE:
            self.debt = min(self.debt + due, MAX_DEBT * self.rate)
            return 0.0
        repaid = min(self.debt, CATCH_UP * due)
        self.debt -= repaid
        self.owed = min(self.owed + due + repaid, MAX_DEBT * self.rate)
        return self.owed

    def pay(self, count: int) -> None:
        """Subtract the updates that were sent."""
        self.owed -= count
