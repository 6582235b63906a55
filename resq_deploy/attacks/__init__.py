"""Attacks on a deployed file through its session alone. Never imports torch."""
