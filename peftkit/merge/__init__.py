"""Merge adapters into base weights, prove it, and change adapters without a base."""
