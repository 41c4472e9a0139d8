"""Releases of earlier versions, kept."""
