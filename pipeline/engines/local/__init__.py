"""The local streaming runner: Beam's bundle-based one, with what it lacks mended in this room."""
