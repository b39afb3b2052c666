"""What is remembered of decisions and of jobs' events, for people; never on the decision's path."""
