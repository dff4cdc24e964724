"""`python -m lesiondelta`."""

from lesiondelta.cli import main

main()
