"""`python -m overspill_sidecar`."""

from overspill_sidecar.cli import main

if __name__ == "__main__":
    main()
