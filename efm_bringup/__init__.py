"""Everything that puts the rooms together: command line, runner, fleet, demo, doctor."""
