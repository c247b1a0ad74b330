"""The nouns and the mathematics of efm: no ROS, no torch, no simulator."""
