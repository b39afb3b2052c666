"""The sites: a channel to each agent, its certificates, its health as last heard."""
