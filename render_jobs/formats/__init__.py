"""Readers of mesh files, one module per format; no Blender needed."""
