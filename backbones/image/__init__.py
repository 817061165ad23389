"""Image networks, written once: they classify images, and the lifts make video networks of their parts."""
