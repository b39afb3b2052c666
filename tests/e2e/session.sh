# What a case's session may call. `way` and `submitted` are set before; neither is exported.
sbatch() {
    command sbatch "--overspill=$way" "$@" | tee -a "$submitted"
    return "${PIPESTATUS[0]}"
}

last_job() {
    grep -oE '[0-9]{7,}' "$submitted" | tail -n 1
}

# until COMMAND...: wait until it succeeds
until_() {
    local deadline=$((SECONDS + 150))
    until "$@"; do
        if ((SECONDS > deadline)); then
            echo "waited in vain for: $*"
            return 1
        fi
        sleep 0.1
    done
}

until_said() { # FILE TEXT
    until_ grep -qs "$2" "$1"
}

has_reason() {
    [ "$(squeue --noheader --job="$1" --states=PENDING --format=%r 2>&1)" = "$2" ]
}

until_reason() { # JOB REASON
    until_ has_reason "$1" "$2"
}

again() { # JOB: requeue it, without the two minutes that Slurm would let it wait
    scontrol requeue "$1" && until_reason "$1" BeginTime || return
    sleep 1 # slurmd launches no job in the second in which it has killed it: "already killed, do not launch batch job"
    scontrol update "job=$1" starttime=now
}
