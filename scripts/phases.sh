# For scripts/test and scripts/soak, which source it with `logs` set: phases with their times, and a
# summary of tests that failed. shellcheck shell=bash

PATH=$(scripts/prepare tools | paste -sd:):$PATH
rm -rf "$logs"
mkdir -p "$logs"
started=$(date +%s)
running=
failed=()
lanes=()

busy() { # hundredths of a second of all cores, busy with anything
    awk '/^cpu / { print $2 + $3 + $4 + $7 + $8; exit }' /proc/stat
}

phase() { # NAME COMMAND...: runs it and notes how long it took and how busy the machine was
    local name=$1 from used code=0
    shift
    echo "== $name"
    from=$(date +%s%N) used=$(busy)
    # In the background, so that a signal ends it at once.
    "$@" &
    running=$!
    wait "$running" || code=$?
    running=
    awk -v name="$name" -v took="$((($(date +%s%N) - from) / 1000000))" -v used="$(($(busy) - used))" \
        -v cores="$(nproc)" -v code="$code" 'BEGIN {
            share = took > 0 ? used * 1000 / (took * cores) : 0
            printf "%-28s %6.0f s %4.0f%% of %d cores%s\n", name, took / 1000, share, cores, code ? "  FAILED" : ""
        }' >>"$logs/phases"
    return $code
}

must() { # a phase without which no other makes sense
    phase "$@" || {
        failed+=("$1")
        finish
    }
}

may() { # a phase beside which the others go on
    phase "$@" || failed+=("$1")
}

beside() { # NAME FUNCTION: a phase that goes on in the background, with a log of its own
    phase "$@" >"$logs/$2.log" 2>&1 &
    lanes+=("$!:$1:$2")
}

join() { # waits for the phases in the background
    local lane pid name log
    for lane in "${lanes[@]}"; do
        IFS=: read -r pid name log <<<"$lane"
        wait "$pid" || failed+=("$name (see $logs/$log.log)")
    done
    lanes=()
}

end_tree() { # PID: ends a process and those that it started
    local child
    for child in $(pgrep -P "$1"); do end_tree "$child"; done
    kill "$1" 2>/dev/null || true
}

end_lanes() { # and what is running, and waits until they have cleaned up
    local lane
    if [ "$running" ]; then
        end_tree "$running"
        wait "$running" || true
        running=
    fi
    for lane in "${lanes[@]}"; do
        end_tree "${lane%%:*}"
        wait "${lane%%:*}" || true
    done
    lanes=()
}
trap 'end_lanes' EXIT
trap 'exit 130' INT TERM

run_tests() { # NAME OPTION...: of nextest, with a Postgres server for all
    local name=$1 code=0
    shift
    # The cluster beside them has Leases to renew.
    nice -n 5 target/debug/with-postgres cargo nextest run --workspace --profile test "$@" || code=$?
    mv target/nextest/test/junit.xml "$logs/$name.xml"
    return $code
}

run_cluster() { # FOLDER OPTION...: of e2e/run, which leaves its reports in the folder
    local code=0 report folder=$1
    shift
    e2e/run "$@" || code=$?
    for report in "$folder"/*.xml; do
        [ ! -e "$report" ] || cp "$report" "$logs/e2e-$(basename "$report")"
    done
    return $code
}

finish() { # ends with a summary
    local code=0 report reports=()
    end_lanes
    echo
    cat "$logs/phases"
    printf '%-28s %6.0f s\n\n' "all" $(($(date +%s) - started))
    for report in "$logs"/*.xml; do
        [ ! -e "$report" ] || reports+=("$report")
    done
    if [ ${#reports[@]} -gt 0 ]; then
        scripts/summary "$logs/failures" "${reports[@]}" || code=1
    fi
    if [ ${#failed[@]} -gt 0 ]; then
        printf 'failed: %s\n' "${failed[@]}"
        code=1
    fi
    trap - EXIT
    exit $code
}
