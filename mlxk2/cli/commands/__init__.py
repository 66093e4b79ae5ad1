"""One module per verb: its flags, and the one line that connects them to an operation."""
