"""What a worker has in hand, and whether it could begin with more."""
