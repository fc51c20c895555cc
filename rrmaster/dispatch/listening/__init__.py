"""When a connection is there to be accepted, and how a listener is closed without harm to those who have connected."""
