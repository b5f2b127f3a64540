#!/bin/sh
# Makes a cluster of the nodes that are named, once; three masters, three replicas. Names are resolved, for a node is joined by address.
set -eu
first=${1%%:*}
if redis-cli -h "$first" -p "${1##*:}" CLUSTER INFO | grep -q cluster_state:ok; then
    echo "the cluster is up"
    exit 0
fi
nodes=
for node in "$@"; do
    address=$(getent hosts "${node%%:*}" | awk '{ print $1; exit }')
    nodes="$nodes ${address:-${node%%:*}}:${node##*:}"
done
# shellcheck disable=SC2086 # words
redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes
until redis-cli -h "$first" -p "${1##*:}" CLUSTER INFO | grep -q cluster_state:ok; do sleep 0.2; done
