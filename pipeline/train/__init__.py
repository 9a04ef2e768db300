"""Joint training of the shared components (regime 1)."""
