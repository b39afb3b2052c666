"""Names that people give: to jobs, to directories, to people."""

from __future__ import annotations

from tests.e2e.cases.case import Case, bash

_JOB_NAMES = {
    "blanks": "  two  words ",
    "quotes": 'it\'s "quoted" `so`',
    "unicode": "naïve 東京 🚀",
    "newline": "two\nlines",
    "shell": "$HOME;$(id)&|<>*?[a]{b}\\",
    "percent": "100%j %x %%",
    "options": "--job-name=x",
    "not-utf-8": "caf\udce9",
    "long": "long " * 60,
    "equals": "a=b JobState=FAILED Partition=x",
    "json": '{"a": [1, "b"]}',
}
_DIRECTORIES = {
    "blanks": " a  b ",
    "quotes": 'it\'s "quoted" `so`',
    "unicode": "naïve 東京 🚀",
    "newline": "two\nlines",
    "shell": "$HOME;$(id)&|<>*?[a]{b}",
    "backslash": "back\\slash",
    "percent": "100%j%%",
    "dash": "-n",
    "not-utf-8": "caf\udce9\udcff",
    "long": "/".join(["very-long-name-of-a-directory"] * 12),
    "longest-name": "n" * 255,
    "deep": "/".join("abcdefghijklmnopqrstuvwxyz" * 3),
    "dots": "..hidden.. /.git",
    "colon": "a:b,c=d",
}
_WHERE = bash('printf "%s\\n" "$PWD" "$SLURM_SUBMIT_DIR" "$SLURM_JOB_NAME" "$USER" | od -c; pwd -P')


def _job_name(what: str, name: str) -> Case:
    return Case(f"job-name-with-{what}", _WHERE, options=(f"--job-name={name}",))


CASES = (
    *(_job_name(what, name) for what, name in _JOB_NAMES.items()),
    *(Case(f"directory-with-{what}", _WHERE, directory=name) for what, name in _DIRECTORIES.items()),
    *(
        Case(
            f"directory-with-{what}-in-a-shared-home",
            bash("pwd; ls; echo x >made"),
            directory=f"home {name}",
            needs_home=True,
        )
        for what, name in _DIRECTORIES.items()
        if what in ("blanks", "newline", "not-utf-8")
    ),
    Case("directory-with-a-trailing-slash", _WHERE, session='sbatch --chdir="$PWD///" -o out job.sh\n'),
    Case("output-with-blanks-and-quotes", bash("echo x"), options=('--output=it\'s a "name"\n%x', "--job-name=j n")),
    Case(
        "script-with-an-odd-name",
        session='printf "#!/bin/bash\\necho \\$0\n" >"a b\'\n.sh"; sbatch -o out "a b\'\n.sh"\n',
    ),
    Case("comment-with-anything", bash("echo x"), options=("--comment=a b\n\"c\" 'd' {e} JobState=FAILED ünï",)),
    Case("user-with-a-dot-and-a-dash", _WHERE, user="dot.ted-User_1"),
    Case("user-with-an-at-sign-and-blanks", _WHERE, user="od d'us@er ü"),
)
