"""Looking on with stock tools: markers for RViz and Foxglove, and their configurations."""
