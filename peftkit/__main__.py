"""`python -m peftkit` is `peftkit`."""

from peftkit.cli import main

main()
