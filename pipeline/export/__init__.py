"""Writes parts of a dataset as files of other programs: its views (`views`) or its fits (`planes`)."""
