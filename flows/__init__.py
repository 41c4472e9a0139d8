"""Prefect flows: each fits on a screen and reads as the checklist of what it does."""
