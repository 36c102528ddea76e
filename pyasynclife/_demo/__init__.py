"""The demo: hundreds of live market feeds on one event loop.

``server`` is a feed server in a separate process, which ``process`` starts and stops;
``market`` defines its symbols, prices and frames, and ``pacing`` keeps its rate even.
``client`` fetches the snapshots and holds the subscriptions, ``meter`` counts their
updates, ``view`` and ``report`` show the figures, ``ramp`` searches for the highest
rate, and ``app`` puts the parts together. ``command`` is the command that runs it,
``python -m pyasynclife demo``.
"""
