"""How many updates the server owes at each tick."""

from time import monotonic

PATIENCE = 0.25  # seconds of silence after which the client is taken to be stuck
MAX_DEBT = 1.0  # seconds of updates that are made up for later
CATCH_UP = 0.25  # the share of the rate at which they are


class Pacer:
    """Keeps a rate on average: what a late tick missed, the next one adds.

    The client says the rate again and again. While it does not, nothing is sent, so
    what is on its way stays bounded; but this sets in far above the latencies that
    matter, so a client that is merely slow does not look better than it is.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.heard = self.last = monotonic()
        self.owed = 0.0
        self.debt = 0.0

    def hear(self, rate: float) -> None:
        """Take the client's word for the rate, and for its being awake."""
        self.rate = rate
        self.heard = monotonic()

    def tick(self) -> float:
        """Return what is owed by now."""
        now = monotonic()
        due = (now - self.last) * self.rate
        self.last = now
        if now - self.heard > PATIENCE:
            self.debt = min(self.debt + due, MAX_DEBT * self.rate)
            return 0.0
        repaid = min(self.debt, CATCH_UP * due)
        self.debt -= repaid
        self.owed = min(self.owed + due + repaid, MAX_DEBT * self.rate)
        return self.owed

    def pay(self, count: int) -> None:
        """Note that so many were sent."""
        self.owed -= count
