"""Connections that rest between two requests: how they get to the idle pool, and how they come back."""
