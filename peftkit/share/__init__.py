"""Adapters that travel: taken in from other programs, looked into, packed, signed, pushed and pulled."""
