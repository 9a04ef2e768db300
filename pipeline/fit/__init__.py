"""Fitting objects to frozen shared components (regime 2)."""
