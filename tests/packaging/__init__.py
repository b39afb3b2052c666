"""The packages: what is in them, and that they work on a Debian that has never seen a checkout."""
