"""The main job: hundreds of live market feeds on one event loop.

``server`` is a feed server in a process of its own, which ``process`` starts and stops;
``market`` is what it sells, ``pacing`` how evenly.
``client`` takes the snapshots and holds the subscriptions, ``meter`` counts what they
see, ``view`` and ``report`` show it, ``ramp`` looks for the highest rate, and ``app``
puts it all together. ``python -m pyasynclife demo`` runs it.
"""
