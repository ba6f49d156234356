"""The ``lowbit`` command."""

import os

# transformers' GGUF reader has a bar that nothing else turns off; tqdm reads this when it is first imported.
os.environ.setdefault("TQDM_DISABLE", "1")

from lowbit.cli.app import app, main

__all__ = ["app", "main"]
