"""Checkpoints: all that a training needs to go on exactly, written so that one is whole or not there."""
