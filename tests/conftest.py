"""What holds for all tests."""

from __future__ import annotations

import hypothesis

from tests.groups import group, no_groups

__all__ = ["group", "no_groups"]

# No test asserts a duration: on a crowded machine an example may wait for a processor for longer than it computes.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")
