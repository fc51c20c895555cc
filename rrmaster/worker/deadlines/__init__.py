"""For how long does a worker wait for a client, and what goes when every place is taken?"""
