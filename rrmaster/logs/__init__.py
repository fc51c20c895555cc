"""The log: what is logged, in which format, and where it goes."""
