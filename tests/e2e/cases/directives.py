"""What sbatch is told: directives in the script, options, where to run, when."""

from __future__ import annotations

from tests.e2e.cases.case import SHOW_ENVIRONMENT, Case, bash

_WHERE = bash('pwd; echo "$SLURM_SUBMIT_DIR"; echo "$PWD"')

CASES = (
    Case(
        "directives-in-the-script",
        "#!/bin/bash\n#SBATCH --job-name='in the script' --output=%x.out\n#SBATCH -e %x.err\n#SBATCH -t 3\n"
        "#SBATCH -n2\n"
        "#SBATCH --comment=\"double 'quoted'\"\n#SBATCH -c 2 --mem=100M\n#SBATCH --open-mode=append\n\n"
        + SHOW_ENVIRONMENT
        + "\n#SBATCH --time=999\necho err >&2\n",
    ),
    Case(
        "options-override-directives",
        "#!/bin/bash\n#SBATCH -J script\n#SBATCH -o %x\necho $SLURM_JOB_NAME\n",
        options=("-Joption",),
    ),
    Case("variables-override-directives", "#!/bin/bash\n#SBATCH -o a\necho x\n", environment={"SBATCH_OUTPUT": "b"}),
    Case("an-unknown-directive", "#!/bin/bash\n#SBATCH --no-such-option\necho x\n"),
    Case("commented-directives", "#!/bin/bash\n##SBATCH --time=999\n# SBATCH -J x\necho $SLURM_JOB_NAME\n"),
    Case("parsable", bash("echo x"), options=("--parsable",)),
    Case("quiet", bash("echo x"), options=("--quiet", "--wait", "--output=out")),
    Case("verbose-refusal", bash("echo x"), options=("--time=bogus",)),
    Case("more-memory-than-any-node", bash("echo x"), options=("--mem=9000G",)),
    Case("chdir", _WHERE, options=("--chdir=/tmp", "--output=/home/alice/compare/chdir/out")),
    Case("chdir-relative", _WHERE, session="mkdir below; sbatch -D below job.sh\n"),
    Case(
        "chdir-to-nowhere",
        _WHERE,
        options=("--chdir=/opt/nowhere", "--output=/home/alice/compare/chdir-to-nowhere/out"),
    ),
    Case(
        "chdir-where-entering-is-forbidden",
        _WHERE,
        options=("--chdir=/root", "--output=/home/alice/compare/chdir-where-entering-is-forbidden/out"),
    ),
    Case(
        "submitted-from-the-root",
        _WHERE,
        session="cd /; sbatch -o ~/compare/submitted-from-the-root/out ~/compare/submitted-from-the-root/job.sh\n",
    ),
    Case(
        "submitted-from-tmp",
        _WHERE,
        session="cd /tmp; sbatch -o ~/compare/submitted-from-tmp/out ~/compare/submitted-from-tmp/job.sh\n",
    ),
    Case(
        "submitted-from-usr",
        _WHERE,
        session="cd /usr/share; sbatch -o ~/compare/submitted-from-usr/out ~/compare/submitted-from-usr/job.sh\n",
    ),
    Case(
        "submitted-from-a-symlinked-directory-of-a-shared-home",
        _WHERE,
        session="mkdir real; ln -s real link; cd link; sbatch ../job.sh\n",
        needs_home=True,
    ),
    Case(
        "submitted-from-where-only-others-may-write",
        _WHERE,
        session="mkdir d; chmod 0555 d; cd d; sbatch -o ../out ../job.sh; chmod 0755 .\n",
    ),
    Case("wait-for-success", bash("exit 0"), options=("--wait",)),
    Case("wait-for-a-code", bash("exit 17"), options=("--wait",)),
    Case("wait-for-a-signal", bash("kill -USR2 $$"), options=("--wait",)),
    Case("wait-for-an-array", bash("exit $SLURM_ARRAY_TASK_ID"), options=("--wait", "--array=0-2")),
    Case("begin-soon", bash("echo began"), options=("--begin=now+2",), is_diverted=False),
    Case("hint-compute-bound", bash("echo x"), options=("--hint=compute_bound",), is_diverted=False),
    Case("no-requeue", bash("echo x"), options=("--no-requeue",)),
    Case("ignore-pbs", "#!/bin/bash\n#PBS -N pbs\necho $SLURM_JOB_NAME\n", options=("--ignore-pbs",)),
    Case("pbs-directives", "#!/bin/bash\n#PBS -N pbs-name\necho $SLURM_JOB_NAME\n"),
    Case("mail", bash("echo x"), options=("--mail-type=ALL", "--mail-user=alice@example.org")),
    Case("wait-all-nodes", bash("echo x"), options=("--wait-all-nodes=1",)),
    Case("delay-boot-and-priority", bash("echo x"), options=("--delay-boot=5", "--nice=100")),
    Case("gres-none", bash("echo x"), options=("--gres=none",)),
    Case("array-over-the-limit", bash("echo x"), options=("--array=0-99999999",)),
)
