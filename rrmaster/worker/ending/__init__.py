"""How does a worker's process end, and what ends with it?"""
