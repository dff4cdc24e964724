"""The command line: arguments become settings; progress and errors are printed here and nowhere else."""

from lesiondelta.cli.app import app, main

__all__ = ["app", "main"]
