"""Engines: what evaluates the faults of a campaign. All of them give the same records."""
