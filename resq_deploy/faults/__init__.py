"""Faults as values: bit arithmetic, fault models, sampling, outcomes and statistics. numpy and scipy only."""
