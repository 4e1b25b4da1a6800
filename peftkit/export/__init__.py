"""Adapters and merged models in the forms that other programs read."""
