"""One module per architecture, as in the real package."""
