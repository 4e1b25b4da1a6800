"""Pieces of a training step that take less memory than the libraries' own; each has a plain reference in its test."""
