"""What does a forked worker make anew, because a worker that imports the application would have one of its own?

Only a template loads this.
"""
