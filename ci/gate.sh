#!/bin/sh
# Is every port of this workspace what its reference is? For any CI: run it in the workspace's folder.
#
#   ci/gate.sh [MODEL]...
#
# PTW_REPORT  where the report goes as JSON (default gate.json); the table goes to the log
# exit status 0 passed, 1 a port failed or something is to be mended, 2 usage, 3 a fault of ptw itself
set -eu
report=${PTW_REPORT:-gate.json}
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" # a gate that needs the network says so instead of hanging
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

status=0
ptw verify --json "$report" "$@" || status=$?
if [ -s "$report" ]; then
  python3 "$(dirname "$0")/summary.py" "$report" || [ "$status" -ne 0 ] || status=1
fi
exit "$status"
