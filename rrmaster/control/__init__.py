"""The operator's socket: one JSON object a line, and both of its ends."""
