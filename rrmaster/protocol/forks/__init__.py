"""What a process may hold that forks others: what its traces mean, and how they are explained."""
