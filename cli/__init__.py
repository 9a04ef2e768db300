"""The `fpipe` command: the only layer that reads the environment and writes to the terminal."""
