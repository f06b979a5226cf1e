#!/usr/bin/env bash
# A cutover from start to end. If anything is in the way before the switch, the fence is lifted and writes may go on where
# they were; behind it nothing is undone, and the proof of what happened is asked for.
#
#   export WALGATE_URL=http://walgate.internal:9632 WALGATE_TOKEN=… BLUE=postgresql://… GREEN=postgresql://…
#   GATE=blue-green \
#   STOP='kubectl scale deployment/app --replicas=0 && kubectl wait --for=delete pod --selector=app=app --timeout=5m' \
#   SEQUENCES='walgate gate sequences --source "$BLUE" --target "$GREEN" --apply --yes' \
#   SWITCH='psql "$GREEN" -c "DROP SUBSCRIPTION green_sub" &&
#       kubectl set env deployment/app DATABASE_URL="$GREEN" && kubectl scale deployment/app --replicas=2' \
#   RESUME='kubectl scale deployment/app --replicas=2' \
#   ./cutover.sh
#
# Arguments of commands are seen by all on a machine: leave the passwords of BLUE and GREEN to a .pgpass.
#
# STOP stops everything that writes, and waits until it has ended: what still runs may write behind the fence. SEQUENCES brings
# the target's sequences up (leave it out for a physical standby). SWITCH promotes the target and drops its slot, or ends its
# subscription, and sends the application there; standby.toml and pglogical.toml have theirs. RESUME undoes STOP. TIMEOUT is for
# each of the steps.
#
# Exit status: 0 switched, and proven; 1 a person must act; 2 something is not set up; 3 not within the time; 4 the daemon
# does not answer. All these but 0 leave the source in use. 5: switched, and what came after is not proven.
set -euo pipefail
: "${GATE:=}" "${STOP:=}" "${SWITCH:=}" "${SEQUENCES:=}" "${RESUME:=}" "${TIMEOUT:=5m}"
if [ -z "$GATE" ] || [ -z "$STOP" ] || [ -z "$SWITCH" ]; then
    echo "GATE, STOP and SWITCH must be set; the head of $0 says to what" >&2
    exit 2
fi

say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

fenced=no
back() { # What is done if the script ends before the switch.
    local status=$?
    trap - EXIT
    say "not switched (exit status $status)"
    if [ $fenced = yes ]; then walgate gate release "$GATE" || say "the fence still stands: walgate gate release $GATE"; fi
    if [ -n "$RESUME" ]; then say "resuming"; bash -c "$RESUME" || say "that failed: writes are still stopped"; fi
    exit "$status"
}

say "is everything ready?"
walgate gate wait "$GATE" --phase preflight --timeout "$TIMEOUT"

trap back EXIT
trap 'exit 1' INT TERM
say "stopping writes"
bash -c "$STOP" || exit 1

say "setting the fence"
for attempt in 1 2 3 4 5; do # What was under way when writes were stopped may take a moment to end.
    status=0
    walgate gate fence "$GATE" || status=$?
    if [ $status = 0 ]; then fenced=yes; break; fi
    if [ $status = 4 ]; then fenced=yes; fi # It may have been set, and the answer lost.
    if [ $status != 1 ] || [ $attempt = 5 ]; then exit $status; fi
    sleep 1
done

if [ -n "$SEQUENCES" ]; then # They move no more, and the gate wants the target's at or past them.
    say "bringing sequences up"
    bash -c "$SEQUENCES" || exit 1
fi

say "waiting for the gate"
walgate gate wait "$GATE" --phase cutover --timeout "$TIMEOUT"

trap - EXIT INT TERM
say "switching"
if ! bash -c "$SWITCH"; then
    say "that failed, and may have been done in part; the fence stands: look, then switch by hand or walgate gate release $GATE"
    exit 5
fi

say "did it really happen?"
walgate gate wait "$GATE" --phase post --timeout "$TIMEOUT" || exit 5
say "done"
