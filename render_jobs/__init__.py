"""Makes input images: sources of meshes, cameras, and renders by Blender in child processes."""
