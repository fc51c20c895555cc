"""How long a process may be silent, in time in which it could have spoken."""
