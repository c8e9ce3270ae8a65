"""Where two networks begin to differ, and why."""
