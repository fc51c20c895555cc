"""What does an import take for its process alone: its id, random values and numbers, its slot?

Only a template loads this.  A worker that imports the application for itself has all of it for itself.
"""
