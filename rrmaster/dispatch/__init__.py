"""The hot path: accept a connection, choose a worker, hand over, and recall what a worker does not take."""
