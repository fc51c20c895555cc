"""Pure decisions: no trio, no sockets, no clock.  Time and randomness are arguments; what follows is returned."""
