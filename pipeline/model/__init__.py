"""The representation: planes, rays, compositing, renderer, autoencoder, shared components."""
