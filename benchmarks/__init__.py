"""Measure pyasynclife against the articles' code and hand-written workers.

Run ``make bench`` or ``python -m benchmarks``; README.md says how to read the figures.
"""
