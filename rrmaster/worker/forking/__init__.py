"""May this process be forked, and what does it share with what it forks?"""
