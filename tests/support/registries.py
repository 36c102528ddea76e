"""What holds of every TaskRegistry."""

from pyasynclife import TaskRegistry


def adds_up(registry: TaskRegistry) -> None:
    """What must hold of a registry's numbers at every moment."""
    stats = registry.stats()
    now = stats.pending + stats.healthy + stats.stale + stats.unknown
    assert stats.alive == now == len(registry) == len(list(registry))
    ended = stats.done + stats.failed + stats.cancelled
    assert stats.registered == stats.alive + ended
    status = registry.get_status().result()
    assert len(status) >= len(registry)
    assert all(registry[task_id] is meta for task_id, meta in status.items())
    alive = [meta for meta in status.values() if meta.finished_at is None]
    assert [meta.task_id for meta in alive] == list(registry)
