"""How do master and workers have different users?"""
