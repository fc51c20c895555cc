"""A master inside a program: what `rrmaster.open_master` and `rrmaster.serve` give it."""
