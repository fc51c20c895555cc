"""Pure decisions: no trio, no sockets, no clock.  Time and randomness come in as arguments."""
