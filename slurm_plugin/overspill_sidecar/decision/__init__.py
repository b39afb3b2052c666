"""Where one submission goes: pure, from the job's shape and the target's limits to the answer."""
