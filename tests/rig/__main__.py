from tests.rig.cli import main

main(prog_name="python -m tests.rig")
