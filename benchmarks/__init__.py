"""What pyasynclife costs beside the articles' own code and beside hand-written workers.

Run it by ``make bench`` or ``python -m benchmarks``; README.md says how to read it.
"""
