"""The episode manager: starts, watches, ends, labels and records the episodes of one robot."""
