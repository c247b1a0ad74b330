"""Learning from episodes: fine-tuning, calibration, self-improvement, roll-outs, evaluation."""
