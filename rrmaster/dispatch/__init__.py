"""The hot path: accept, choose, hand over, recall."""
