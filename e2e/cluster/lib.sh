# Shared by up, down, load and component; `dir` is the cluster's folder.
#
# A cluster with a node lives in a network, a mount and a PID namespace of its own, held open by
# one process, the holder. So its ports, its bridge and its iptables rules meet nobody else's, and
# when the holder is killed the kernel ends every process and mount with it. From outside it is
# reached through a veth pair. A control plane alone needs none of this, nor root: it listens on
# free ports of 127.0.0.1.

fail() {
    echo "error: $*" >&2
    exit 1
}

# What up wrote, as shell variables.
read_settings() {
    [ -f "$dir/settings" ] || fail "there is no cluster in $dir: no file settings"
    # shellcheck disable=SC1091
    . "$dir/settings"
}

alive() { # PID
    [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null && ! grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null
}

pid_of() { # NAME: the process id of a component, if it runs
    local pid
    pid=$(cat "$dir/pids/$1" 2>/dev/null) || return 1
    alive "$pid" || return 1
    # After a restart of the machine, or long after, the number may be somebody else's.
    grep -qzxF "OBSERVERS_CLUSTER=$dir" "/proc/$pid/environ" 2>/dev/null || return 1
    echo "$pid"
}

inside() { # COMMAND...: in the cluster's namespaces, if it has any
    if [ "${holder:-}" ]; then
        nsenter --target "$holder" --net --mount --pid -- "$@"
    else
        "$@"
    fi
}

# Keeps a component's command, so that it can be started again, and starts it.
launch() { # NAME COMMAND...
    local name=$1
    shift
    printf '%q ' "$@" >"$dir/commands/$name"
    start "$name"
}

start() { # NAME
    local name=$1 pid
    pid_of "$name" >/dev/null && return 0
    [ -f "$dir/commands/$name" ] || fail "no component $name in $dir; there are: $(ls "$dir/commands" | xargs)"
    local -a command
    eval "command=($(cat "$dir/commands/$name"))"
    # setsid, so that Ctrl-C at a terminal ends what waits for the cluster, not the cluster; no
    # descriptor of the caller's, or a pipe that it reads would never end.
    OBSERVERS_CLUSTER=$dir inside setsid --wait "${command[@]}" \
        >>"$dir/logs/$name.log" 2>&1 </dev/null 8>&- 9>&- &
    disown
    pid=$(program_below $! "${command[0]}") || {
        tail -n 25 "$dir/logs/$name.log" >&2
        fail "$name does not start; the end of $dir/logs/$name.log is above"
    }
    echo "$pid" >"$dir/pids/$name"
}

program_below() { # PID PROGRAM: the process that runs it, below nsenter and setsid
    local pid=$1 program child
    program=$(readlink -f "$2")
    for _ in $(seq 200); do
        if [ "$(readlink -f "/proc/$pid/exe" 2>/dev/null)" = "$program" ]; then
            echo "$pid"
            return 0
        fi
        child=$(pgrep -P "$pid" | head -1) || true
        if [ "$child" ]; then pid=$child; else sleep 0.02; fi
        alive "$pid" || return 1
    done
    return 1
}

# nsenter stops itself when the program below it is stopped, and stays so when only that goes on.
above() { # PID: the nsenter that a program runs below, if it does
    local parent
    parent=$(awk '$1 == "PPid:" { print $2 }' "/proc/$1/status" 2>/dev/null) || return 1
    [ "$(cat "/proc/${parent:-0}/comm" 2>/dev/null)" = nsenter ] || return 1
    echo "$parent"
}

stopped() { # PID
    grep -q '^State:.*T' "/proc/$1/status" 2>/dev/null
}

go_on() { # PID: a paused program, and what stopped with it
    local parent
    if parent=$(above "$1"); then
        kill -CONT "$parent" 2>/dev/null || true
    fi
    kill -CONT "$1" 2>/dev/null || true
}

end() { # NAME [SECONDS]: tells a component to end, and ends it when it has not in that time
    local name=$1 pid
    if pid=$(pid_of "$name"); then
        go_on "$pid" # a paused one would not hear
        kill -TERM "$pid" 2>/dev/null || true
        within "${2:-10}" gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        within 5 gone "$pid" || fail "$name (process $pid) cannot be ended"
    fi
    rm -f "$dir/pids/$name"
}

gone() { # PID
    ! alive "$1"
}

within() { # SECONDS COMMAND...: tries until it succeeds
    local deadline=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "${EPOCHREALTIME/[.,]/}" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

await() { # WHAT SECONDS NAME COMMAND...: as within, and on failure shows the end of that component's log
    local what=$1 seconds=$2 name=$3
    shift 3
    within "$seconds" done_or_dead "$name" "$@" && "$@" >/dev/null 2>&1 && return 0
    echo "$what: not so within $seconds s. The last try:" >&2
    "$@" >&2 || true
    pid_of "$name" >/dev/null || echo "$name has ended." >&2
    echo "The end of $dir/logs/$name.log:" >&2
    tail -n 25 "$dir/logs/$name.log" >&2 || true
    return 1
}

done_or_dead() { # NAME COMMAND...
    local name=$1
    shift
    "$@" || ! pid_of "$name"
}

hierarchies() { # the folders in which cgroups are made: one with cgroup v2, one for each controller with v1, where
    # there may be a v2 beside them, for names only
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup
    else
        awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/self/mounts
    fi
}
