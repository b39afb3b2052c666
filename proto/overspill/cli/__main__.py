"""`python -m overspill.cli`, for an installation without its scripts on PATH."""

from overspill.cli import main

main(prog_name="overspill")
