"""What an import leaves behind that forked workers would share, and what each of them has of its own instead.

Only a template loads this.
"""
