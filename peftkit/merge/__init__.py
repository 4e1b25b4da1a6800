"""Merges adapters into base weights and proves it; combines, shrinks, extracts and compares adapters."""
