"""The end of the output: the shutdown report, and one line for programs."""

from pyasynclife import RegistryStats, ShutdownReport
from pyasynclife._demo.meter import Figures, Meter, milliseconds


def print_report(
    meter: Meter, run: Figures, stats: RegistryStats, report: ShutdownReport
) -> None:
    """Print the report, then the latencies, then a line of name=value pairs."""
    p50, p99 = (milliseconds(run.percentile(share)) for share in (0.50, 0.99))
    print(report)
    print(f"latency over {run.seconds:.1f} s: p50 {p50}, p99 {p99}")
    print(summary(meter, run, stats, report), flush=True)


def summary(
    meter: Meter, run: Figures, stats: RegistryStats, report: ShutdownReport
) -> str:
    """Return the line for programs."""
    pairs = {
        "symbols": len(meter.tracks),
        "updates": run.updates,
        "updates_per_second": f"{run.rate:.0f}",
        "reconnects": stats.restarts,
        "stale_seen": meter.stale_seen,
        "lost": meter.lost,
        "shutdown_seconds": f"{report.duration:.3f}",
        "stuck": len(report.stuck),
    }
    return " ".join(f"{name}={value}" for name, value in pairs.items())
