"""`python -m overspill_agent`."""

from overspill_agent.cli import main

if __name__ == "__main__":
    main()
