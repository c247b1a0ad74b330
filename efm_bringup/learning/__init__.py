"""Benchmarks of the learning recipe itself: small worlds, many seeds, no ROS."""
