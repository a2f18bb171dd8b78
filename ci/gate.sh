#!/bin/sh
# Is every port of this workspace what its reference is? For any CI: run it in the workspace's folder.
#
#   ci/gate.sh [MODEL]...
#
# PTW_CHANGED_SINCE  a branch or commit: only the ports that changed since, and what else the change touches
# PTW_LEVEL          practice (default) or acceptance
# PTW_REPORTS        the folder of the reports (default gate): gate.json, gate.xml (JUnit), gate.html,
#                    code-quality.json (GitLab); the table goes to the log
# exit status 0 passed, 1 a port failed or something is to be mended, 2 usage, 3 a fault of ptw itself
set -eu
reports=${PTW_REPORTS:-gate}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" # a gate that needs the network says so instead of hanging
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p "$reports"
rm -f "$reports/gate.json" "$reports/gate.xml" "$reports/gate.html" "$reports/code-quality.json"

# a port's own words are in the log: GitHub must not obey them
words=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
test -z "${GITHUB_ACTIONS:-}" || echo "::stop-commands::$words"
status=0
ptw verify --level "${PTW_LEVEL:-practice}" ${PTW_CHANGED_SINCE:+--changed-since "$PTW_CHANGED_SINCE"} \
  --json "$reports/gate.json" --junit "$reports/gate.xml" --report "$reports/gate.html" "$@" || status=$?
test -z "${GITHUB_ACTIONS:-}" || echo "::$words::"

if [ -s "$reports/gate.json" ]; then
  python3 "$here/summary.py" "$reports" || [ "$status" -ne 0 ] || status=1
elif [ "$status" -eq 0 ]; then
  echo "ptw verify passed and left no report" >&2
  status=3
fi
exit "$status"
