"""The reward model of a robot as a node: steps-to-go, reward and success at every tick."""
