"""When and how does a worker give connections back between two requests?"""
