"""Prefect tasks: each a few lines around one library call, cached by :mod:`tasks.caching`."""
