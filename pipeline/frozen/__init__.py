"""The frozen choice, measured: fits against frozen shared components beside blocks that train their own."""
