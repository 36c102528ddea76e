"""Adapters for other packages and for systemd; import the module that you need.

`asgi` for Starlette, FastAPI and plain ASGI applications, `aiohttp` for aiohttp.web,
and `systemd` for services of type ``notify``.
"""
