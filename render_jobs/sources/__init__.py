"""Where meshes come from; one module or package per source."""
