"""The ``lowbit`` command."""

from lowbit.cli.app import app, main

__all__ = ["app", "main"]
