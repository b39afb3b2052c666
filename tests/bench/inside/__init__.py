"""Programs that run inside the rig's hosts, where nothing of this checkout can be imported."""
