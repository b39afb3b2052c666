"""What a batch script may look like, and what it may do with itself."""

from __future__ import annotations

from tests.e2e.cases.case import Case, bash

_MIB = 1024 * 1024


def _of_size(size: int) -> str:
    # A command comes first: a script whose opening comments go on for more than 64 KiB is not asked about.
    head, tail = "#!/bin/bash\n:\n", '\necho "$(wc -c <"$0") bytes, $(sha256sum <"$0")"\n'
    line = "#" * 99 + "\n"
    count, rest = divmod(size - len(head) - len(tail), len(line))
    return head + line * count + "#" * rest + tail


CASES = (
    Case(
        "arguments",
        bash('printf "[%s]" "$#" "$@"; echo; basename "$0"'),
        arguments=("one two", "", "it's", 'double "quotes"', "back\\slash", "new\nline", "ünïcødé", "*", "$HOME", "-n"),
    ),
    Case("argument-that-is-not-utf-8", bash('printf "%s" "$1" | od -c'), arguments=("caf\udce9",)),
    Case("a-thousand-arguments", bash('echo "$#"; printf "%s\n" "$@" | sha256sum'), arguments=("argument x",) * 1000),
    Case("python-shebang", "#!/usr/bin/python3 -u\nimport sys\nprint(sys.argv[1:])\nsys.exit(5)\n", ("a b",)),
    Case("perl-shebang", '#!/usr/bin/perl -w\nprint "perl @ARGV\\n"; warn "warned"; exit 3;\n', ("x", "y z")),
    Case("awk-shebang", '#!/usr/bin/awk -f\nBEGIN { print "awk", ARGC, ARGV[1]; exit 4 }\n', ("one",)),
    Case("sh-shebang", '#!/bin/sh\nset -- a b\necho "$# $0" | sed "s,/.*/,,"; [ 1 == 1 ]\n'),
    Case("env-shebang", "#!/usr/bin/env bash\necho ${BASH_VERSINFO[0]}\n"),
    Case("env-shebang-with-split-arguments", "#!/usr/bin/env -S bash -e\necho before; false; echo after\n"),
    Case("shebang-with-arguments", "#!/bin/bash -eux\necho before\nfalse\necho after\n"),
    Case("shebang-with-blanks", "#!   /bin/bash   \necho ran\n"),
    Case("shebang-that-is-too-long", "#!/bin/" + "./" * 150 + "bash\necho ran\n"),
    Case("shebang-of-crlf", "#!/bin/bash\r\necho ran\n"),
    Case("crlf-line-ends", "#!/bin/bash\r\necho ran\r\n"),
    Case("no-shebang", "echo ran\n"),
    Case("empty-script", ""),
    Case("missing-interpreter", "#!/opt/nowhere/bin/python4 -u\nprint()\n"),
    Case("interpreter-that-is-a-directory", "#!/usr/bin\necho ran\n"),
    Case("interpreter-that-may-not-be-executed", "#!/etc/passwd\necho ran\n"),
    Case("syntax-error", bash("echo before\nif then\necho after")),
    Case("no-final-newline", "#!/bin/bash\necho ran; printf end"),
    Case("script-that-is-not-utf-8", b"#!/bin/bash\n# caf\xe9\nprintf '\xff\xfe caf\xe9' | od -c\n"),
    Case("script-with-a-nul", b"#!/bin/bash\necho ran\0\n"),
    Case("script-of-almost-4-mib", _of_size(4 * _MIB - 1)),
    Case("script-of-more-than-4-mib", _of_size(4 * _MIB + 1)),
    Case(
        "script-that-looks-at-itself",
        bash(
            'echo "$0"; stat -c "%a %U %s %F" "$0"; ls "${0%/*}"\n'
            'sed -n "/^MARK/,\\$p" "$0"; exit\nMARK\nof its own text'
        ),
    ),
    Case("script-that-removes-itself", bash('rm "$0"; echo removed; ls "$0"; echo still here')),
    Case("script-that-rewrites-itself", bash('echo "echo never read" >>"$0"; echo first; exit 0')),
    Case("script-that-starts-itself-again", bash('echo "turn $1"; [ "$1" = 3 ] || exec "$0" $(($1 + 1))'), ("1",)),
    Case("here-documents", bash('cat <<A <<"B"\nlost $HOME\nA\nkept $HOME\nB\ncat <<<"here $((1 + 1))"')),
    Case("the-execute-bit-does-not-matter", bash("echo ran"), prelude="chmod 0400 job.sh"),
    Case("script-from-standard-input", session="echo 'echo wrapped $0' | sed 1i#!/bin/bash | sbatch --output=out"),
    Case("script-in-a-here-document", session="sbatch --output=out <<'END'\n#!/bin/bash\necho $0 $#\nEND\n"),
    Case("wrapped-command", session="sbatch --output=out --wrap=\"echo 'one  two'; exit 9\"\n"),
    Case("script-by-its-absolute-path", bash("echo $0; pwd"), session='mkdir in; cd in; sbatch "$OLDPWD/job.sh"\n'),
    Case("script-found-on-the-path", session="sbatch --output=out true 2>&1; sbatch no-such-script"),
    Case(
        "a-library-that-is-sourced",
        bash('. ./library.sh "$@"; greet world; return_code; echo $?'),
        files={"library.sh": 'greet() { echo "hello $1"; }\nreturn_code() { return 42; }\n'},
        needs_home=True,
    ),
    Case(
        "an-interpreter-of-ones-own",
        "{home}",
        session='chmod +x mine; printf "#!%s/mine\\nanything\\n" "$PWD" >job.sh; sbatch job.sh x\n',
        files={"mine": '#!/bin/bash\necho "mine: $# arguments"; tail -n 1 "$1"; echo "$2"\n'},
        needs_home=True,
    ),
)
