#!/bin/sh
# Creates the secrets that compose.yaml reads; existing ones are kept.
# usage: deploy/docker/secrets.sh [folder]
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
cd "$folder"
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$1" ] || printf '%s' "$2" > "$1"; }
keep redis_password "$(random)"
keep redis_url "redis://:$(cat redis_password)@redis:6379/0"
# Of the store itself. Before, it had the service's keys below, which are now those of a user of its bucket.
keep s3_root_user "rmbg-root"
keep s3_root_password "$(random)"
keep s3_access_key "rmbg"
keep s3_secret_key "$(random)"
keep flower_basic_auth "operator:$(random)"
keep metrics_token "$(random)"
keep grafana_password "$(random)"
# The containers' users, which do not exist on this machine, have to read the files, which are
# mounted one by one. The folder's mode keeps other users of this machine out.
chmod 444 ./*
chmod 700 .
