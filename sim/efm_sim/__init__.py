"""A LanguageTable-like simulated robot in PyBullet: world, tasks, demonstrator, rendered scenes."""
