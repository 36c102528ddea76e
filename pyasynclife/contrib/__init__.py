"""Adapters for other packages and for systemd; import the module that you need.

`asgi` for Starlette, FastAPI and plain ASGI applications, `aiohttp` for aiohttp.web,
`systemd` for services of type ``notify``, `logging` for the id of a task in its log
records, and `prometheus` and `opentelemetry` for metrics.
"""
