"""Where a run runs: the processes that make it up, found from the environment, and how they are submitted."""
