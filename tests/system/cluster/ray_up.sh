#!/bin/bash
# `ray up` for real, without a cloud: cluster.yaml's on-premise variant on two machines made of Linux namespaces, each
# with a network address, processes, /tmp and home of its own, reached through ssh from a third one. The third runs
# `ray up`, a small grid on both machines through the cluster's own MLflow server, and `ray down`.
#
#   sudo PYTHON=.venv/bin/python tests/system/cluster/ray_up.sh
#
# Needs root and Debian's openssh-server, rsync and iproute2. Nothing of this machine's own is changed: neither ~/.ssh,
# nor its network, nor Ray that may run here. All machines use the Python environment that PYTHON belongs to, so what
# cluster.yaml installs from the internet is not tried; everything after that is.
set -euo pipefail

PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
SCRIPT=$(realpath "$0")
REPO=$(realpath "$(dirname "$SCRIPT")/../../..")
export PYTHON REPO SCRIPT
HEAD=10.77.0.1 WORKER=10.77.0.2 LAPTOP=10.77.0.254

# --- a machine: private mounts, then sshd until the end ---------------------------------------------------------------
if [ "${1:-}" = machine ]; then
    name=$2
    hostname "$name"
    mount -t tmpfs tmpfs /dev/shm
    mount -t tmpfs tmpfs /home && mkdir /home/user && mount --bind "$WORK/$name" /home/user
    mount --bind "$WORK/passwd" /etc/passwd && mount --bind "$WORK/hosts" /etc/hosts
    mount -t tmpfs tmpfs /run && mkdir /run/sshd
    mount -t tmpfs tmpfs /mnt && mkdir /mnt/isod && mount --bind "$WORK/shared" /mnt/isod
    mount -t tmpfs tmpfs /tmp  # what lies below, WORK and REPO too maybe, has its second names already
    ip link set lo up
    /usr/sbin/sshd -D -e -f /home/user/sshd_config 2> /home/user/sshd.log &
    wait $!  # bash, as process 1, also takes in orphans
    exit
fi

# --- everything happens in namespaces whose end ends every process in them --------------------------------------------
if [ "${1:-}" != inside ]; then
    for program in /usr/sbin/sshd rsync ip unshare; do
        command -v $program > /dev/null || { echo "ray_up.sh needs $program"; exit 2; }
    done
    WORK=$(mktemp -d)
    export WORK
    trap 'rm -rf "$WORK"' EXIT
    unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc bash "$SCRIPT" inside
    exit
fi

say() { printf '\n== %s\n' "$*"; }
mkdir -p "$WORK"/{head,worker,laptop,shared}
sed 's|^root:.*|root:x:0:0:root:/home/user:/bin/bash|' /etc/passwd > "$WORK/passwd"
printf '127.0.0.1 localhost\n%s head\n%s worker\n%s laptop\n' $HEAD $WORKER $LAPTOP > "$WORK/hosts"
ssh-keygen -q -t ed25519 -N '' -f "$WORK/laptop/key"
for name in head worker; do
    ssh-keygen -q -t ed25519 -N '' -f "$WORK/$name/host_key"
    cp "$WORK/laptop/key.pub" "$WORK/$name/authorized_keys"
    printf '%s\n' 'HostKey /home/user/host_key' 'AuthorizedKeysFile /home/user/authorized_keys' 'StrictModes no' \
        'PasswordAuthentication no' 'PermitRootLogin prohibit-password' 'UsePAM no' 'PidFile none' \
        "ListenAddress $([ $name = head ] && echo $HEAD || echo $WORKER)" > "$WORK/$name/sshd_config"
done

hostname laptop
ip link set lo up
ip link add bridge0 type bridge && ip addr add $LAPTOP/24 dev bridge0 && ip link set bridge0 up
declare -A pid
for name in head worker; do
    # The network first: sshd must find its address there.
    unshare --net --mount --pid --uts --ipc --fork --kill-child --mount-proc \
        bash -c 'until ip -4 addr show dev eth0 2> /dev/null | grep -q inet; do sleep 0.1; done
                 exec bash "$0" machine "$1"' "$SCRIPT" $name &
    pid[$name]=$!
    until child=$(pgrep -P ${pid[$name]}); do sleep 0.1; done
    ip link add "to_$name" type veth peer name eth0 netns "$child"
    ip link set "to_$name" master bridge0 up
    address=$([ $name = head ] && echo $HEAD || echo $WORKER)
    nsenter -t "$child" -n ip link set eth0 up
    nsenter -t "$child" -n ip addr add "$address/24" dev eth0
    pid[$name]=$child
done

# This is the laptop: its own home, /tmp and list of machines.
until exec 3<> /dev/tcp/$HEAD/22 4<> /dev/tcp/$WORKER/22; do sleep 0.1; done 2> /dev/null
exec 3>&- 4>&-
mount -t tmpfs tmpfs /home && mkdir /home/user /home/repo
mount --bind "$WORK/laptop" /home/user && mount --bind "$REPO" /home/repo
mount --bind "$WORK/passwd" /etc/passwd && mount --bind "$WORK/hosts" /etc/hosts
mount -t tmpfs tmpfs /tmp
export HOME=/home/user PATH="$(dirname "$PYTHON"):$PATH" RAY_USAGE_STATS_ENABLED=0 RAY_UP_enable_autoscaler_v2=0
cd /home/repo
ray_processes() { pgrep -f 'raylet|gcs_server|ray::|dashboard/|autoscaler' -a | grep -v pgrep || true; }

python -m tests.cluster.variants $HEAD /home/user/key \
    "chmod 600 ~/.ray/auth_token && (grep -q RAY_AUTH_MODE ~/.bashrc 2> /dev/null || echo export RAY_AUTH_MODE=token >> ~/.bashrc) && ln -sfn $(dirname "$(dirname "$PYTHON")") ~/isod-venv && (grep -q isod-venv ~/.bashrc 2> /dev/null || echo \
'export PATH=\$HOME/isod-venv/bin:\$PATH PYTHONPATH=\$HOME/isod RAY_USAGE_STATS_ENABLED=0' >> ~/.bashrc)" \
    $WORKER > "$HOME/cluster.yaml"

# Prints what a command on the head prints, as `ray exec` says much else; fails where the command does.
on_head() { ray exec "$HOME/cluster.yaml" "echo @@@; $1" > "$HOME/exec.log" 2>&1 || { tail -40 "$HOME/exec.log" >&2; return 1; }
            tr -d '\r' < "$HOME/exec.log" | sed '1,/^@@@/d' | grep -v '^Shared connection' || :; }
on() { nsenter -t "${pid[$1]}" -m -n -p -u -- bash -c "$2"; }
processes() { for name in head worker; do on $name "pgrep -af 'raylet|gcs_server|ray::|ray/|mlflow' | grep -v pgrep | cut -c1-150" || :; done; }

say "ray up"
(umask 077; ray get-auth-token --generate > /dev/null 2>&1)
ray up -y --no-config-cache "$HOME/cluster.yaml" > "$HOME/up.log" 2>&1 || { tail -40 "$HOME/up.log"; exit 1; }
for attempt in $(seq 30); do
    nodes=$(on_head 'ray status' | sed -n 's/^ *\([0-9]*\) local.cluster.node/\1/p' | paste -sd+ | bc)
    [ "${nodes:-0}" -eq 2 ] && break
done
on_head 'ray status' | sed -n '/^Active/,/^Pending/{/^Pending/!p};/CPU$/p'
[ "${nodes:-0}" -eq 2 ]

say "who listens beyond loopback"
for name in head worker; do
    echo "$name: $(on $name "ss -Hltnp" | awk '$4 !~ /^(127\.|\[::1\]|\[::ffff:127\.)/ {sub(/.*:/, "", $4); split($6, p, "\""); print p[2] ":" $4}' \
        | sort -u | paste -sd' ')"
done

say "Ray without the secret, and with it"
ask() { timeout 60 env RAY_AUTH_MODE=$1 ray status --address=$HEAD:6379 > "$HOME/ask.log" 2>&1; }
if ask disabled; then echo "Ray answers who has no secret"; exit 1; fi
grep -i -m1 -o 'InvalidAuthToken[^,]*\|[^.]*authentication token[^.]*' "$HOME/ask.log" | cut -c1-120 || { tail -5 "$HOME/ask.log"; exit 1; }
ask token || { tail -5 "$HOME/ask.log"; exit 1; }
for name in head worker; do on $name '[ "$(stat -c %a ~/.ray/auth_token)" = 600 ]'; done
echo "answered with it; only its owner can read it, on both machines"

say "MLflow without a password, then the grid"
status=$(on_head "curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:5000/api/2.0/mlflow/experiments/get?experiment_id=0")
echo "status $status" && [ "$status" = 401 ]
on_head 'cd ~/isod && python sweeps/thesis_grid.py --address auto --out /mnt/isod/runs --demo-frames 40 --seeds 2 \
    --samplers baseline UIS --iterations 20 --batch-size 8 --validate-every 10 --width 0.125 --workers 1 \
    --tracking-uri http://127.0.0.1:5000' | tail -12
for name in head worker; do
    echo "$name ran $(on $name "grep -ls actor_name:ImplicitFunc /tmp/ray/session_latest/logs/worker-*.out | wc -l") trial processes"
done

say "ray down"
on_head 'kill $(cat ~/.mlflow/server.pid)'
ray down -y "$HOME/cluster.yaml" > "$HOME/down.log" 2>&1 || { tail -40 "$HOME/down.log"; exit 1; }
echo "left on the worker: $(on worker "pgrep -af 'ray::|ray/' | grep -v pgrep | wc -l") processes; there, as cluster.yaml says: ray stop"
ssh -q -i "$HOME/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@$WORKER bash -ic "'ray stop'" \
    > "$HOME/stop.log" 2>&1 || { tail -40 "$HOME/stop.log"; exit 1; }
for attempt in $(seq 120); do
    left=$(processes)
    [ -z "$left" ] && break
    sleep 1
done
[ -z "$left" ] || { echo "left behind:"; echo "$left"; exit 1; }
echo "no process left, $attempt s after ray down"
