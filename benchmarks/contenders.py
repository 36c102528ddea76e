"""The contenders: one name, colour and marker each, in all tables and plots."""

from dataclasses import dataclass

OURS = "ours"
SEED = "seed"
HAND = "hand"
STOCK = "stock"

SEMAPHORE = "asyncio.Semaphore + gather (the articles' code)"
WORKERS = "50 workers by hand"
STREAMED = "ours, streamed"


@dataclass(frozen=True, slots=True)
class Style:
    """How a contender's line is drawn."""

    colour: str
    marker: str
    line: str = "--"


# In tables, if it is not the key itself. The keys are those of a row's figures.
LABELS = {
    OURS: "pyasynclife",
    STREAMED: "pyasynclife, streamed",
    SEED: "the articles' code",
    HAND: "by hand",
    STOCK: "asyncio.TaskGroup",
}
# The lines differ on white and on near-black pages, and by their markers without
# colours. In a legend of two columns, the long names fill the first one.
STYLES = {
    OURS: Style("#e5484d", "o", "-"),
    STREAMED: Style("#e5484d", "*", ":"),
    WORKERS: Style("#2f81f7", "s"),
    SEMAPHORE: Style("#b8860b", "^"),
    "anyio, CapacityLimiter": Style("#c2622d", "<"),
    "pyarallel": Style("#9a6cf0", "D"),
    "quattro": Style("#1a9e5c", "v"),
    "aiojobs": Style("#0e9aa7", "P"),
    "aiometer": Style("#d0609f", "X"),
    "aiostream": Style("#71862c", ">"),
}


def label(key: str) -> str:
    """Return the name that a reader sees."""
    return LABELS.get(key, key)
