"""The policy of a robot as a node: observations in, action chunks and decisions out."""
