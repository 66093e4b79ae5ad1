"""The requests of each API, as strict pydantic models. They know no engine: `mlxk2.server.reading` makes requests of them."""
