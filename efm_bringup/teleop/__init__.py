"""A person at a robot: joystick or keyboard to twists, takeover and the orders of a take."""
