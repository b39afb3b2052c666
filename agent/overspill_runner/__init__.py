"""The top process of a diverted job at the remote site. One file, the standard library, Python 3.8 or later."""
