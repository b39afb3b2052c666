"""The local body of a diverted job. Standard library only, and of that little: one proxy starts per job."""
