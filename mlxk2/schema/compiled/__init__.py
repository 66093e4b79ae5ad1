"""Generated validators, one module per definition of the schema."""
