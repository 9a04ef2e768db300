#!/bin/bash
# A Ceph S3 server (RGW) of one node on the loopback, all in memory, for tests of what moto does not do.
#
#   eval "$(tests/ceph_rgw.sh start FOLDER)"   # prints export lines: endpoint, keys
#   pytest -m ceph
#   tests/ceph_rgw.sh stop FOLDER              # ends the processes; the folder may be deleted then
#
# Installs nothing. Debian: apt-get install --no-install-recommends ceph-mon ceph-mgr ceph-osd ceph-common radosgw
set -euo pipefail

folder=$(realpath -m "${2:?usage: ceph_rgw.sh start|stop FOLDER}")
conf=$folder/ceph.conf

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

stop() {
    for name in rgw osd mon; do  # clients first
        if [[ -s $folder/$name.pid ]]; then
            kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
            for _ in $(seq 100); do
                kill -0 "$(cat "$folder/$name.pid")" 2>/dev/null || break
                sleep 0.1
            done
            rm -f "$folder/$name.pid"
        fi
    done
}

daemon() {  # name, program, arguments: in the background, its process id in a file
    local name=$1
    shift
    "$@" -c "$conf" -f >"$folder/$name.out" 2>&1 </dev/null &
    echo $! >"$folder/$name.pid"
}

wait_for() {  # seconds, command
    for _ in $(seq "$1"); do
        if timeout 20 "${@:2}" >/dev/null 2>&1; then return; fi
        sleep 1
    done
    echo "ceph_rgw.sh: '${*:2}' did not succeed; see $folder/*.log" >&2
    stop
    exit 1
}

start() {
    for program in ceph-mon ceph-osd ceph ceph-authtool radosgw radosgw-admin monmaptool; do
        command -v $program >/dev/null || { echo "ceph_rgw.sh: $program is not installed" >&2; exit 3; }
    done
    mkdir -p "$folder/mon" "$folder/osd"
    local fsid osd_uuid mon_port rgw_port
    fsid=$(cat /proc/sys/kernel/random/uuid)
    mon_port=$(free_port)
    rgw_port=$(free_port)
    cat >"$conf" <<CONF
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$mon_port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
keyring = $folder/keyring
run dir = $folder
admin socket = $folder/\$name.asok
log file = $folder/\$name.log
mon data = $folder/mon
osd data = $folder/osd
mon data avail crit = 1
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
rgw frontends = beast endpoint=127.0.0.1:$rgw_port tcp_nodelay=1
rgw data = $folder
rgw thread pool size = 64
CONF
    local name
    for name in mon. client.admin osd.0; do
        ceph-authtool --create-keyring "$folder/one" -n $name --gen-key \
            --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
        cat "$folder/one" >>"$folder/keyring"
    done
    monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon_port]" "$folder/monmap" >/dev/null
    ceph-mon -c "$conf" --mkfs -i a --monmap "$folder/monmap" --keyring "$folder/keyring" >/dev/null
    daemon mon ceph-mon -i a
    wait_for 60 ceph -c "$conf" --connect-timeout 5 status
    osd_uuid=$(cat /proc/sys/kernel/random/uuid)
    ceph -c "$conf" osd new "$osd_uuid" >/dev/null
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$osd_uuid" >/dev/null 2>&1
    daemon osd ceph-osd -i 0
    wait_for 60 bash -c "ceph -c '$conf' osd stat | grep -q '1 up'"
    daemon rgw radosgw -n client.admin
    wait_for 120 bash -c "exec 3<>/dev/tcp/127.0.0.1/$rgw_port"
    wait_for 20 radosgw-admin -c "$conf" user create --uid=test --display-name=test --access-key=test --secret-key=test
    echo "export FPIPE_TEST_S3_ENDPOINT=http://127.0.0.1:$rgw_port"
    echo "export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1"
}

case $1 in
    start | stop) "$1" ;;
    *) echo "usage: ceph_rgw.sh start|stop FOLDER" >&2; exit 2 ;;
esac
