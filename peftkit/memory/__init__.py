"""A run that meets the end of memory: seen early, survived with smaller batches, and explained."""
