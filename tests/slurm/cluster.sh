#!/usr/bin/env bash
# A SLURM cluster on this machine, as root on Debian or Ubuntu: one controller, two nodes, no accounting.
#
# bash tests/slurm/cluster.sh start DIR
# bash tests/slurm/cluster.sh stop DIR
set -euo pipefail
action=$1 dir=$(realpath -m "$2")

if [ "$action" = stop ]; then
  for pid in "$dir"/*.pid; do [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true; done
  exit
fi

if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends slurm-wlm munge
fi
mkdir -p "$dir"/{state,node1,node2} /etc/slurm /run/munge
chown munge:munge /run/munge
chmod 755 "$dir"
munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c munged
host=$(hostname -s)
cat >"$dir/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
# A job that is queued again waits this long, in seconds; 120 without it.
AuthInfo=cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=20
MinJobAge=300
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=4 RealMemory=8000
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=4 RealMemory=8000
PartitionName=debug Nodes=node1,node2 Default=YES MaxTime=30 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=urgent Nodes=node1,node2 MaxTime=30 State=UP PriorityTier=10
CONF
export SLURM_CONF=$dir/slurm.conf
setsid slurmctld -D >"$dir/slurmctld.out" 2>&1 &
sleep 2
for node in node1 node2; do setsid slurmd -D -N $node >"$dir/$node.out" 2>&1 & done
for _ in $(seq 30); do
  sleep 1
  [ "$(sinfo -h -o '%T' | sort -u)" = idle ] && exit
done
sinfo
cat "$dir"/*.out
exit 1
