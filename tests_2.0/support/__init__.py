"""The test kit: caches, models, servers and a front door for tests."""
