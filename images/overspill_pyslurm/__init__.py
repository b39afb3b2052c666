"""Builds of pyslurm what reads the queue, for the Slurm of a machine: `make pyslurm`.

pyslurm on PyPI fits one release of Slurm, 25.11; every other needs other parts left out. The queue needs few of them.
"""
