"""Which workers live, which are replaced, and how a reload goes."""
