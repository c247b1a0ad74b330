"""From the end of one episode to the start of the next: ways to reset, led by `lead.ResetLead`."""
