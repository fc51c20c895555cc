"""The messages between master and worker: the only folder that both processes load."""
