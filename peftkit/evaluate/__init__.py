"""Answers, metrics, and the report."""
