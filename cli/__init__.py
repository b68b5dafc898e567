"""The command line: one module per verb, nothing but composition of the rooms."""
