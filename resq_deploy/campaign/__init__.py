"""Fault campaigns on a deployed file: plan, golden run, evaluation, store, summary."""
