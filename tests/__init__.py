"""Tests; a package so that ``tests.support`` can be imported whatever else is called ``tests``."""
