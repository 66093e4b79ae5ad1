"""MOVES files: the Hub's questions through its own client, its bytes through ours. Knows no command and no runner."""
