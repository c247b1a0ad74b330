"""The only shared code with rclpy: channels, QoS, status, executor and the entry point of nodes."""
