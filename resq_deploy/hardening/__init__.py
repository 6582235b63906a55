"""Stages 0 to 2 of the hardening: baseline, attack resilience, fault resilience, and the export to float ONNX.

This module and `options` and `events` stay free of torch, so that the command line answers `--help` at once.
"""
