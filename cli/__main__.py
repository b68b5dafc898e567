"""`python -m redecode.cli` is `redecode`."""

from redecode.cli.main import run

run()
