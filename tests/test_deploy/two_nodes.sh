#!/bin/bash
# Runs a command on the first of two "nodes": namespaces with processes of their own, joined by a network cable.
# Each has its own /tmp but for SHARED, the folder that both see. The first node reaches the second one as srun does, through
# the pipe SHARED/steps: a line is a script, which is run there; its output and exit code go beside it.
# To be started in namespaces of its own (unshare --pid --net --mount-proc --fork --kill-child).
#   two_nodes.sh SHARED COMMAND...
set -eu
shared=$1
shift

# Arguments: the shared folder, the command.
# shellcheck disable=SC2329 # called by the inner shells
node() {
  local folder=$1
  shift
  mount --bind "$folder" /mnt
  mount -t tmpfs none /tmp
  mkdir -p "$folder"
  mount --move /mnt "$folder"
  ip link set lo up
  "$@"
}
# shellcheck disable=SC2329
serve() {
  local step
  exec 3<>"$1/steps" # for writing, too: then it never ends
  while read -r step <&3; do
    { bash "$step" >"$step.log" 2>&1; echo $? >"$step.rc"; } &
  done
}
export -f node serve

mkfifo "$shared/steps"
own=(unshare --pid --mount --fork --mount-proc --kill-child)
# shellcheck disable=SC2016 # "$1" is the inner shell's
"${own[@]}" --net bash -c 'node "$1" serve "$1"' serve "$shared" &
other="/proc/$!/ns/net"
while [ "$(readlink "$other")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add first type veth peer name second netns "$!"
nsenter --net="$other" ip addr add 10.77.0.2/24 dev second
nsenter --net="$other" ip link set second up
ip addr add 10.77.0.1/24 dev first
ip link set first up
# shellcheck disable=SC2016 # "$@" is the inner shell's
"${own[@]}" bash -c 'node "$@"' node "$shared" "$@"
