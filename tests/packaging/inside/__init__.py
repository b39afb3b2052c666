"""What runs inside a machine of these tests, copied there; standard library only."""
