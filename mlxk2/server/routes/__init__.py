"""The addresses of the server, each API in a module of its own. They know the schemas and the writers, and no engine."""
