"""Its presence makes the root importable for the tests below: `from tests.fakes import ...`."""
